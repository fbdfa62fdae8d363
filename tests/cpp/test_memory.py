"""C++ finds as much free memory as Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.test_memory import CASES, write


@pytest.mark.parametrize(("files", "expected"), CASES)
def test_available_memory(files: dict[str, str], expected: int | None, build: Path, tmp_path: Path) -> None:
    program = [str(build / "segnets-test-views"), "--available-memory", str(write(tmp_path, files))]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout == f"{'unknown' if expected is None else expected}\n"
