"""Measure how the memory of a process grows over a long stream of images."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.inference.inputs import FAST

# Small inputs, so that the run takes minutes. The first thousand images fill the caches of all libraries.
_SCRIPT = """
import json, sys, time
import segnets
weights, images, count, warm = json.loads(sys.argv[1])
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024
predictor = segnets.Predictor(weights, resize=96)
sources = (images[number % len(images)] for number in range(count))
after, start = {}, time.perf_counter()
for number, prediction in enumerate(predictor.stream(sources), 1):
    assert prediction.mask is not None
    if number in (warm, count):
        after[number] = resident()
print(json.dumps([after[warm], after[count], time.perf_counter() - start]))
"""


def growth(weights: dict[str, Path], images: Sequence[Path], count: int) -> Iterator[str]:
    """Yield the lines of a table.

    Raises:
        RuntimeError: If the stream fails.
    """
    warm = max(1, count // 10)
    arguments = json.dumps([str(weights[FAST]), [str(path) for path in images], count, warm])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT, arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError("the stream failed; see its error output above")
    first, last, seconds = json.loads(done.stdout)
    yield f"| network | images | memory after {warm} | memory after {count} | growth | rate |"
    yield "|---|---|---|---|---|---|"
    yield (
        f"| {FAST}, short side 96 | {count} | {first:.0f} MiB | {last:.0f} MiB | {last - first:.1f} MiB | "
        f"{count / seconds:.0f}/s |"
    )
