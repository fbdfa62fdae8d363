"""Memory that a call frees stays with the process, where the C library can do that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_COUNT_PAGES = """
import resource, sys, torch
from segnets.export import load_exported
exported = load_exported(sys.argv[1], keep_memory=sys.argv[2] == "keep")
image = torch.zeros(2, 3, 260, 260)
for _ in range(3):
    exported.logits(image)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    exported.logits(image)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages as Linux does")
def test_later_calls_get_their_memory_back(small: Path) -> None:
    def pages(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", _COUNT_PAGES, small, how], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    given_back, kept = pages("give back"), pages("keep")
    assert kept * 10 < given_back, (kept, given_back)
