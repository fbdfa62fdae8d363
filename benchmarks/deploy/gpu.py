"""Latency and throughput on a GPU, beside torchvision: `python -m benchmarks.deploy.gpu`. Needs CUDA.

All candidates take turns in one process: a GPU has no thread pools that could spin. Times are between events on the
GPU, medians of rounds; images lie on it already.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import segnets
from benchmarks.deploy.candidates import NETWORKS, SIZE
from benchmarks.deploy.files import torchvision_network
from segnets.export import load_exported
from segnets.preprocess import Preprocessing

_CALLS = 20


def candidates(network: str, dtype: str, folder: Path) -> dict[str, Callable[[Tensor], object]]:
    """What is measured, by name; each takes a normalised float32 (N, 3, H, W) on the GPU."""
    theirs = torchvision_network(network)
    ours = segnets.create_model(network)
    segnets.load_weights(ours, dict(theirs.state_dict()))
    path = folder / f"{network}-{dtype}.ts"
    segnets.export(ours, path, device="cuda", dtype=dtype, preprocessing=Preprocessing())
    exported = load_exported(path)
    theirs = theirs.cuda().to(memory_format=torch.channels_last)
    compiled = torch.compile(theirs, mode="max-autotune")

    def with_autocast(model: Callable[[Tensor], dict[str, Tensor]]) -> Callable[[Tensor], Tensor]:
        def call(image: Tensor) -> Tensor:
            with torch.inference_mode(), torch.autocast("cuda", getattr(torch, dtype)):
                return model(image.contiguous(memory_format=torch.channels_last))["out"]

        return call

    return {
        "torchvision, autocast, channels_last": with_autocast(theirs),
        "torchvision, torch.compile(max-autotune)": with_autocast(compiled),
        "segnets torchscript cuda": exported.logits,
    }


def milliseconds(call: Callable[[Tensor], object], image: Tensor) -> float:
    """Of one call, the median of _CALLS."""
    times = []
    for _ in range(_CALLS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(image)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a GPU that CUDA finds")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {SIZE}x{SIZE}, milliseconds per call")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for network in options.networks:
            for dtype in options.dtypes:
                calls = candidates(network, dtype, Path(folder))
                for batch in options.batches:
                    image = torch.rand(batch, 3, SIZE, SIZE, device="cuda")
                    for call in calls.values():
                        milliseconds(call, image)  # compiles, chooses kernels
                    rounds = [{n: milliseconds(c, image) for n, c in calls.items()} for _ in range(options.rounds)]
                    shown = (f"{name} {statistics.median(each[name] for each in rounds):.2f}" for name in calls)
                    print(f"{network}, {dtype}, batch {batch}: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
