"""Exports for target "cpu" in C++: the golden pair is reproduced in both precisions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from segnets.deploy import export
from tests.deploy.common import SMALL, calm_model
from tests.tiers import full_but


@pytest.mark.parametrize("dtype", full_but(["bfloat16"], ["float32", "bfloat16"]))
def test_the_golden_pair(tmp_path: Path, build: Path, dtype: str) -> None:
    export(calm_model(num_classes=5), tmp_path / "m.ts", target="cpu", dtype=dtype, preprocessing=SMALL)
    done = subprocess.run([build / "segnets-run", "--self-test", tmp_path / "m.ts"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
