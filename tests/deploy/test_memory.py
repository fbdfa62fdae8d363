"""The process keeps memory that a call frees, if the C library supports it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segnets.deploy import export
from tests.deploy.common import SMALL, tiny

_COUNT_PAGES = """
import resource, sys, torch
from segnets.deploy import load_exported
exported = load_exported(sys.argv[1], keep_memory=sys.argv[2] == "keep")
image = torch.zeros(1, 3, 1500, 1500)  # its logits exceed the 32 MiB that glibc keeps by default
for _ in range(6):
    exported.logits(image)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    exported.logits(image)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_later_calls_reuse_memory(tmp_path: Path) -> None:
    export(tiny(), tmp_path / "m.ts", preprocessing=SMALL, target="portable")

    def pages(how: str) -> int:
        command = [sys.executable, "-c", _COUNT_PAGES, str(tmp_path / "m.ts"), how]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    given_back, kept = pages("give back"), pages("keep")
    assert kept * 4 < given_back, (kept, given_back)
