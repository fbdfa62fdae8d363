"""Compare one export in Python and in C++ (segnets_native): startup, calls, threads, memory. `make bench-native`.

The command prints tables, and writes them to benchmarks/results/native.md with a description of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.deploy.worker import Worker
from benchmarks.measure import machine, median, take_turns
from segnets.deploy import export
from segnets.preprocessing import Preprocessing
from segnets.registry import find_builder
from tests.oracle import randomise_

RESULTS = Path(__file__).parents[1] / "results" / "native.md"
NAME, HEIGHT, WIDTH, CALLS = "lraspp_mobilenet_v3_large", 480, 640, 8
FILES: dict[str, dict[str, Any]] = {"cpu.ts": {"target": "cpu"}, "aoti.pt2": {"format": "aoti"}}

# Both take the image and return the mask as NumPy arrays, with one thread per call.
OURS = """
import numpy as np, segnets_native
segnets_native.set_threads(1)
image = np.random.default_rng(0).integers(0, 256, ({height}, {width}, 3), dtype=np.uint8)
model = segnets_native.Model({path!r})
segment = model.segment
"""
THEIRS = """
import numpy as np, torch
from segnets.deploy import load_exported
torch.set_num_threads(1)
image = np.random.default_rng(0).integers(0, 256, ({height}, {width}, 3), dtype=np.uint8)
model = load_exported({path!r})
def segment(image):
    return model.segment(torch.from_numpy(image)[None])[0].numpy()
"""
PROGRAMS = {"ours": OURS, "theirs": THEIRS}
TWO = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
"""
BGR = "image = image[..., ::-1]"


def code(who: str, path: Path) -> str:
    """Return the code that prepares one of PROGRAMS."""
    return PROGRAMS[who].format(path=str(path), height=HEIGHT, width=WIDTH)


def first_calls(path: Path, rounds: int) -> dict[str, list[list[float]]]:
    """Time the first CALLS calls in seconds, in a new process per round."""
    results: dict[str, list[list[float]]] = {"theirs": [], "ours": []}
    for _ in range(rounds):
        for who, kept in results.items():
            with Worker(who, code(who, path), "segment(image)", threads=1) as worker:
                kept.append(worker.seconds(CALLS))
    return results


def steady_calls(path: Path, rounds: int) -> dict[str, list[float]]:
    """Time one call per round in seconds, in processes that take turns and live through all rounds."""
    # Code to prepare, code to time, and its number of images.
    calls = dict.fromkeys(("theirs", "ours"), ("", "segment(image)", 1))
    calls |= {f"{who}: two threads": (TWO, "list(pool.map(segment, [image] * 4))", 4) for who in ("theirs", "ours")}
    calls["ours: bgr"] = (BGR, "segment(image)", 1)
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(name, code(name.split(":")[0], path) + prepare, call, threads=1))
            for name, (prepare, call, _) in calls.items()
        }
        for worker in workers.values():
            worker.seconds(3)
        results: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(4 * rounds):
            for name, worker in workers.items():
                # The first call of a turn only warms the caches.
                images = calls[name][2]
                results[name].append(statistics.median(worker.seconds(1 + CALLS // images)[1:]) / images)
        return results


def ratio(over: list[float], under: list[float]) -> float:
    """Return the median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def rows(path: Path, rounds: int) -> Iterator[str]:
    """Yield the lines of one file's table."""
    starts = take_turns({who: ("", f"{code(who, path)}\nsegment(image)") for who in ("theirs", "ours")}, rounds)
    times = {who: [each["seconds"] for each in results] for who, results in starts.items()}
    first, steady = first_calls(path, rounds), steady_calls(path, rounds)
    yield _row("from the start of Python to the first mask", times["theirs"], times["ours"])
    for index, label in enumerate(("first call", "second call")):
        yield _row(label, *([seconds[index] for seconds in first[who]] for who in ("theirs", "ours")))
    yield _row("a later call", steady["theirs"], steady["ours"])
    two = [steady[f"{who}: two threads"] for who in ("theirs", "ours")]
    yield _row("the same in two Python threads, per call", *two)
    scaled = [ratio(steady[who], both) for who, both in zip(("theirs", "ours"), two, strict=True)]
    yield f"| two Python threads, calls per second against one | {scaled[0]:.2f} x | {scaled[1]:.2f} x | |"
    memory = [median(starts[who], "peak_mib") for who in ("theirs", "ours")]
    yield (
        f"| memory with the imports, above Python's | {memory[0]:.0f} MiB | {memory[1]:.0f} MiB "
        f"| {memory[1] / memory[0]:.2f} |"
    )
    second = [
        statistics.median(seconds[1] / statistics.median(seconds[3:]) for seconds in first[who])
        for who in ("theirs", "ours")
    ]
    yield f"| second call against later ones of its process | {second[0]:.2f} | {second[1]:.2f} | |"
    yield f"| BGR (`image[..., ::-1]`) against RGB | | {ratio(steady['ours: bgr'], steady['ours']):.3f} | |"


def _row(label: str, theirs: list[float], ours: list[float]) -> str:
    """Format both medians, and the median of the ratios within each round."""
    times = [f"{1000 * statistics.median(seconds):.1f} ms" for seconds in (theirs, ours)]
    return f"| {label} | {' | '.join(times)} | {ratio(ours, theirs):.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="segnets-bench-") as folder:
        model = find_builder(NAME)(num_classes=21)
        randomise_(model)
        text = f"# One export in Python and in C++\n\n{machine()}.\n{NAME}, image {HEIGHT}x{WIDTH}, short side 520, "
        text += (
            f"one thread per call.\nMedians of {rounds} rounds, {4 * rounds} for later calls. Candidates take turns, "
            "each in its own process."
        )
        text += "\n`make bench-native` repeats the measurement.\n"
        for name, options in FILES.items():
            path = Path(folder) / name
            export(model.eval(), path, preprocessing=Preprocessing(), **options)
            header = "| what | Python | C++ (segnets_native) | ratio |"
            text += "\n".join(["", f"## {name}", "", header, "|---|---|---|---|", *rows(path, rounds), ""])
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
