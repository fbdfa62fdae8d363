"""A short run of the fuzzer, and proof that it notices each broken promise."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.seeds import Seed, all_seeds
from tests.fuzz.structure import EDITS, apply, draw, parse

ROOT = Path(__file__).parents[2]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, whose signals, limits and audit hooks the fuzzer may set."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_reader_is_imported_after_atheris_can_observe_it() -> None:
    done = python("-c", "import sys, tests.fuzz.__main__; print(*sys.modules)")
    imported = done.stdout.split()
    assert "tests.fuzz" in imported, done.stderr
    assert not [name for name in imported if name.startswith(("weights_tools", "segnets"))]


def test_a_short_run(tmp_path: Path) -> None:
    done = python("-m", "tests.fuzz", "--engine", "structure", "--executions", "300", "--jobs", "1",
                  "--save-failures", str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 executions" in done.stdout
    # A fuzzer whose inputs all stop at a checksum would prove nothing.
    for container in ("zip", "TorchScript", "legacy", "pickle", "safetensors"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{container} ")]
        assert float(line.split()[-1].removesuffix("%")) > 5, done.stdout


PLANTED = """
import sys, time, os, threading
from pathlib import Path
from tests.fuzz.promises import BrokenPromiseError, Target
from tests.fuzz.reading import Outcome

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

def reading(path, choice): return Outcome("head", (now() or "fine",))
target = Target(Path(sys.argv[1]), reading, (0.5, 1.0, 64 << 20))
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


def test_every_broken_promise_is_detected(tmp_path: Path) -> None:
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
def test_parsing_and_writing_keeps_a_file(seed: Seed) -> None:
    once = parse(seed.data).to_bytes()
    if not seed.data.startswith(b"PK"):
        assert once == seed.data
    assert parse(once).to_bytes() == once


def test_the_same_edits_give_the_same_bytes() -> None:
    seeds = all_seeds()
    pool = [seed.data for seed in seeds[:12]]
    for seed in seeds[:20]:
        edits = draw(seed.data, random.Random(5))
        assert apply(seed.data, edits, pool) == apply(seed.data, edits, pool)
        for edit in (*EDITS[parse(seed.data).kind], None):
            apply(seed.data, [(edit, 1)], pool)
