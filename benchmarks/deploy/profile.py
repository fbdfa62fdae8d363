"""Profile an export operator by operator: `python -m benchmarks.deploy.profile FILE [--threads N]`.

The first table has the time of each oneDNN operation. For convolutions it also has the speed relative to the
convolution peak, which is the fastest of a few large convolutions in the same run. The second table has all operators
that torch's profiler records. It does not record the loops of compiled code, unless `--loops` compiles a benchmark's
file again with profiling enabled.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.deploy import files
from benchmarks.deploy.files import channels_last
from segnets.deploy import load_exported

_CALLS = 8
_WARM = 8  # calls before those; it takes a few until each reuses the memory of the last
# Channels, side and kernel of convolutions that are large enough to reach the peak.
_LARGE = ((256, 130, 3), (512, 65, 3), (1024, 65, 1))
_SHAPE = re.compile(r"(?:g(\d+))?mb(\d+)_(?:g\d+)?ic(\d+)oc(\d+)_ih\d+oh(\d+)kh(\d+).*_iw\d+ow(\d+)kw(\d+)")
# Start of a script that runs in its own process; the code that measures and prints follows.
_PREPARE = """
import sys, torch
from segnets.deploy import load_exported
torch.set_num_threads(int(sys.argv[2]))
logits = load_exported(sys.argv[1]).logits
image = torch.rand(int(sys.argv[3]), 3, 520, 520)
for _ in range(int(sys.argv[5])):
    logits(image)
"""
_VERBOSE = """
with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
    for _ in range(int(sys.argv[4])):
        logits(image)
"""
_TORCH = """
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    for _ in range(int(sys.argv[4])):
        logits(image)
for event in profile.key_averages():
    print(event.self_cpu_time_total / 1000, event.count, event.key, sep=",")
"""


def milliseconds(call: Callable[[], object], count: int = _CALLS) -> float:
    """Return the duration of one call, the median after two calls."""
    times = []
    for _ in range(count + 2):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def peak(dtype: torch.dtype) -> float:
    """Return the GFLOP/s of the fastest large convolution."""
    best = 0.0
    for channels, side, kernel in _LARGE:
        layer = torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2).to(dtype).eval()
        layer = channels_last(layer)
        image = torch.randn(1, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
        flops = 2 * (channels * side * kernel) ** 2
        with torch.inference_mode():
            best = max(best, flops / milliseconds(partial(layer, image)) / 1e6)
    return best


def operations(file: Path, threads: int, batch: int) -> dict[tuple[str, str], list[float]]:
    """Return the milliseconds of every oneDNN operation in _CALLS calls, by implementation and shape."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in _printed(_VERBOSE, file, threads, batch):
        words = line.split(",")
        if words[0] == "onednn_verbose" and "exec" in words:
            at = words.index("exec")
            found[" ".join(words[at + 2 : at + 4]), words[-2]].append(float(words[-1]))
    return found


def seen_by_torch(file: Path, threads: int, batch: int) -> dict[str, tuple[float, float]]:
    """Return milliseconds (without callees) and number of runs per call, for every operator that torch records."""
    rows = (line.split(",", 2) for line in _printed(_TORCH, file, threads, batch))
    return {name: (float(time_spent) / _CALLS, int(times) / _CALLS) for time_spent, times, name in rows}


def _printed(code: str, file: Path, threads: int, batch: int) -> list[str]:
    arguments = map(str, (file, threads, batch, _CALLS, _WARM))
    command = [sys.executable, "-W", "ignore", "-c", _PREPARE + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def with_loops(file: Path, folder: Path) -> Path:
    """Compile the network of a file by `files.make` again into `folder`, so that torch's profiler records each loop."""
    from torch._inductor import config  # the compiler takes a second to import

    network = file.name.split("-")[0]
    with config.patch({"cpp.enable_kernel_profile": True}):
        files.make(network, folder, [file.name.removeprefix(network)])
    return folder / file.name


def gigaflops(shape: str) -> float:
    """Return the GFLOP of a convolution from its shape in oneDNN's log; 0 for other operations."""
    match = _SHAPE.match(shape)
    if match is None:
        return 0.0
    groups, n, channels_in, channels_out, height, kernel, width, kernel_width = (int(g or 1) for g in match.groups())
    return n * channels_in // groups * channels_out * height * width * kernel * kernel_width * 2e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rows", type=int, default=12, help="number of rows in each of the two tables")
    parser.add_argument("--loops", action="store_true", help="compile a benchmark's .pt2 again to record its loops")
    options = parser.parse_args()
    if options.loops and not re.search(r"-aoti(-bf16)?-\d+\.pt2$", options.file.name):
        parser.error(f"--loops: expected a benchmark's file, NETWORK-aoti-THREADS.pt2, got {options.file}")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.loops:
            options.file = with_loops(options.file, Path(folder))
        _print(options.file, options.threads, options.batch, options.rows)


def _print(file: Path, threads: int, batch: int, rows: int) -> None:
    exported = load_exported(file)
    image = torch.rand(batch, 3, 520, 520)
    highest = peak(torch.bfloat16 if exported.contract.dtype == "bfloat16" else torch.float32)
    whole = milliseconds(lambda: exported.logits(image))
    found = operations(file, threads, batch)
    spent = {key: sum(times) / _CALLS for key, times in found.items()}
    print(f"{file.name}, {threads} threads, batch {batch}: {whole:.1f} ms per call, of which oneDNN takes")
    print(f"{sum(spent.values()):.1f} ms. Convolution peak {highest:.0f} GFLOP/s.\n")
    print("| ms | share | of the peak | times | operation | shape |\n|---:|---:|---:|---:|---|---|")
    for (operation, shape), time_spent in sorted(spent.items(), key=lambda each: -each[1])[:rows]:
        times = len(found[operation, shape]) / _CALLS
        speed = 1000 * gigaflops(shape) * times / time_spent / highest
        share = f"{speed:.0%}" if speed else "-"
        print(f"| {time_spent:.2f} | {time_spent / whole:.1%} | {share} | {times:.0f} | {operation} | {shape} |")
    seen = seen_by_torch(file, threads, batch)
    print("\nOperators that torch recorded in other calls; those of mkldnn include the time of oneDNN:\n")
    print("| ms | share | times | operator |\n|---:|---:|---:|---|")
    for name, (time_spent, times) in sorted(seen.items(), key=lambda each: -each[1][0])[:rows]:
        print(f"| {time_spent:.2f} | {time_spent / whole:.1%} | {times:.0f} | {name} |")


if __name__ == "__main__":
    main()
