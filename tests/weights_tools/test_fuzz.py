"""Files changed at random: a short run of `fuzz`, and the proof that it notices what it looks for."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.document import take_apart
from fuzz.mutate import BYTE_EDITS, STRUCTURE_EDITS, apply, draw
from fuzz.seeds import all_seeds

ROOT = Path(__file__).parents[2]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the measures need signals, limits and hooks that a test run has uses for."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("engine", ["random", "hypothesis"])
def test_files_changed_at_random(tmp_path: Path, engine: str) -> None:
    count = {"random": "1500", "hypothesis": "250"}[engine]
    options = ("--jobs", "1", "--no-extremes", "--save-failures", str(tmp_path))
    done = python("-m", "fuzz", "--engine", engine, "--executions", count, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{int(count):,} executions" in done.stdout
    # A harness whose inputs all stop at a checksum would prove nothing.
    for container in ("zip", "TorchScript", "legacy", "pickle", "safetensors"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{container} ")]
        assert float(line.split()[-1].removesuffix("%")) > 5, done.stdout


PLANTED = """
import sys, time, os, threading
from pathlib import Path
from fuzz.promises import BrokenPromiseError, Limits
from fuzz.reading import Outcome
from fuzz.target import Target

kept = []
def escapes(): raise KeyError("x")
def sleeps(): time.sleep(3)
def works():
    while True: pass
def eats(): kept.append(bytearray(os.urandom(1)) * (80 << 20))
def runs(): os.system("true")
def imports(): import this
def writes(): (target.path.parents[1] / "elsewhere").write_text("x")
def leaves(): target.path.with_name("other").write_text("x")
def opens(): kept.append(open("/dev/null"))
def threads(): threading.Thread(target=lambda: time.sleep(2), daemon=True).start()
def rambles(): return "x" * 9000
def escapes_the_terminal(): return "\\x1b[2J"
def behaves(): return "fine"

limits = Limits(seconds=0.5, clock=1.0, memory=64 << 20)
target = Target(Path(sys.argv[1]), limits, lambda path, choice: Outcome("head", (now() or "fine",)))
now = behaves
target.warm_up([b"x"])
planted = (escapes, sleeps, works, eats, runs, imports, writes, leaves, opens, threads, rambles, escapes_the_terminal)
for now in (*planted, behaves):
    try:
        target.execute(b"x")
        print(now.__name__, "unnoticed")
    except BrokenPromiseError as broken:
        print(now.__name__, broken.kind)
"""


def test_the_harness_notices_what_it_looks_for(tmp_path: Path) -> None:
    done = python("-c", PLANTED, str(tmp_path))
    assert done.stdout.splitlines() == [
        "escapes escaped",
        "sleeps hang",
        "works hang",
        "eats memory",
        "runs executed",
        "imports executed",
        "writes executed",
        "leaves left behind",
        "opens left open",
        "threads left open",
        "rambles message",
        "escapes_the_terminal message",
        "behaves unnoticed",
    ], done.stderr


@pytest.mark.parametrize("seed", all_seeds(), ids=lambda seed: seed.name)
def test_a_file_is_taken_apart_and_put_together(seed: object) -> None:
    data = seed.data  # type: ignore[attr-defined]
    once = take_apart(data).to_bytes()
    if not data.startswith(b"PK"):
        assert once == data
    assert take_apart(once).to_bytes() == once


def test_an_edit_is_the_same_every_time() -> None:
    seeds = all_seeds()
    pool = [seed.data for seed in seeds[:12]]
    for seed in seeds[:20]:
        edits = draw(seed.data, random.Random(5))
        assert apply(seed.data, edits, pool) == apply(seed.data, edits, pool)
        for name in (*STRUCTURE_EDITS, *BYTE_EDITS):
            apply(seed.data, [(name, 1)], pool)
