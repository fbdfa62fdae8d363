"""The files that cost most to read stay within the limits of time and memory, and are read or refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# One nested value and one header: a sample that takes seconds. --full reads every file, in a minute.
SAMPLE = ("tuples nested deep", "a header of many tensors")
SCRIPT = """
import sys
from pathlib import Path
from tests.fuzz.promises import Target, cap_memory
from tests.fuzz.reading import read
from tests.fuzz.seeds import all_seeds
from tests.weights_tools.costliest import costliest_files

target = Target(Path(sys.argv[1]), read)
kinds = {seed.name.partition(":")[0]: seed.data for seed in reversed(all_seeds())}  # the first seed of each kind
target.warm_up(list(kinds.values()))
cap_memory(3 << 30)
for name, make in costliest_files():
    if not sys.argv[2:] or name in sys.argv[2:]:
        target.execute(make())
        print(name)
"""


def read(folder: Path, *names: str) -> list[str]:
    """Read the files of these names, or all, in a process of its own whose limits may be set."""
    command = [sys.executable, "-c", SCRIPT, str(folder), *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_sample(tmp_path: Path) -> None:
    assert sorted(read(tmp_path, *SAMPLE)) == sorted(SAMPLE)


@pytest.mark.full
def test_every_file(tmp_path: Path) -> None:
    assert len(read(tmp_path)) > 30
