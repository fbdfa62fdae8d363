"""One export in Python and in C++ (segnets_native): start, calls, threads, memory. `make bench-native`.

Prints tables and writes them to benchmarks/results/native.md with the machine beside them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, median, take_turns
from segnets.export import export
from segnets.preprocess import Preprocessing
from segnets.registry import find_builder
from tests.oracle import randomise_

RESULTS = Path(__file__).parents[1] / "results" / "native.md"
NAME, HEIGHT, WIDTH, CALLS = "lraspp_mobilenet_v3_large", 480, 640, 30
FILES: dict[str, dict[str, Any]] = {"cpu.ts": {"target": "cpu"}, "aoti.pt2": {"format": "aoti"}}

# Both begin with NumPy's pixels and end with NumPy's mask, with one thread per call.
OURS = """
import numpy as np, segnets_native
segnets_native.set_threads(1)
image = np.random.default_rng(0).integers(0, 256, ({height}, {width}, 3), dtype=np.uint8)
model = segnets_native.Model({path!r})
segment = model.segment
"""
THEIRS = """
import numpy as np, torch
from segnets.export import load_exported
torch.set_num_threads(1)
image = np.random.default_rng(0).integers(0, 256, ({height}, {width}, 3), dtype=np.uint8)
model = load_exported({path!r})
def segment(image):
    return model.segment(torch.from_numpy(image)[None])[0].numpy()
"""
TWO = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
list(pool.map(segment, [image] * 6))
"""


def candidates(path: Path) -> dict[str, tuple[str, str]]:
    """Each with what is prepared and what is measured."""
    found = {}
    for who, code in (("ours", OURS), ("theirs", THEIRS)):
        code = code.format(path=str(path), height=HEIGHT, width=WIDTH)
        warm = f"{code}\nfor _ in range(3): segment(image)\n"
        found[f"{who}: start"] = ("", f"{code}\nsegment(image)")
        found[f"{who}: first"] = (code, "segment(image)")
        found[f"{who}: second"] = (f"{code}\nsegment(image)", "segment(image)")
        found[f"{who}: steady"] = (warm, f"for _ in range({CALLS}): segment(image)")
        found[f"{who}: two threads"] = (warm + TWO, f"list(pool.map(segment, [image] * {CALLS}))")
    path_to_bgr = OURS.format(path=str(path), height=HEIGHT, width=WIDTH)
    bgr = f"{path_to_bgr}\nimage = image[..., ::-1]\nfor _ in range(3): segment(image)\n"
    found["ours: bgr"] = (bgr, f"for _ in range({CALLS}): segment(image)")
    return found


def rows(results: dict[str, list[dict[str, float]]]) -> list[str]:
    seconds = {name: median(result) for name, result in results.items()}
    peak = {name: median(result, "peak_mib") for name, result in results.items()}
    calls = dict.fromkeys(("steady", "two threads"), CALLS)
    table = []
    for what, label in (
        ("start", "from the start of Python to the first mask"),
        ("first", "first call"),
        ("second", "second call"),
        ("steady", f"a call, of {CALLS} after three"),
        ("two threads", "the same in two Python threads, per call"),
    ):
        theirs, ours = (1000 * seconds[f"{who}: {what}"] / calls.get(what, 1) for who in ("theirs", "ours"))
        table.append(f"| {label} | {theirs:.1f} ms | {ours:.1f} ms | {ours / theirs:.2f} |")
    theirs, ours = (seconds[f"{who}: steady"] / seconds[f"{who}: two threads"] for who in ("theirs", "ours"))
    table.append(f"| two Python threads, calls per second against one | {theirs:.2f} x | {ours:.2f} x | |")
    a, b = (peak[f"{who}: start"] for who in ("theirs", "ours"))
    table.append(f"| memory with the imports, above Python's | {a:.0f} MiB | {b:.0f} MiB | {b / a:.2f} |")
    second = seconds["ours: second"] * CALLS / seconds["ours: steady"]
    table.append(f"| second call against a steady one | | {second:.2f} | |")
    table.append(f"| BGR (`image[..., ::-1]`) against RGB | | {seconds['ours: bgr'] / seconds['ours: steady']:.3f} | |")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="segnets-bench-") as folder:
        model = find_builder(NAME)(num_classes=21)
        randomise_(model)
        text = f"# One export in Python and in C++\n\n{machine()}.\n{NAME}, image {HEIGHT}x{WIDTH}, short side 520, "
        text += (
            f"one thread per call.\nMedians of {rounds} rounds, each candidate in a process of its own, taking turns."
        )
        text += "\n`make bench-native` measures anew.\n"
        for name, options in FILES.items():
            path = Path(folder) / name
            export(model.eval(), path, preprocessing=Preprocessing(), **options)
            results = take_turns(candidates(path), rounds)
            header = "| what | Python | C++ (segnets_native) | ratio |"
            text += "\n".join(["", f"## {name}", "", header, "|---|---|---|---|", *rows(results), ""])
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
