"""Compare latency and throughput on a GPU with torchvision: `python -m benchmarks.deploy.gpu`. Needs CUDA.

All candidates take turns in one process, because a GPU has no thread pools that could spin. A time is the median over
the rounds, between two events on the GPU; the images are already there. The table is rewritten after each
measurement, so an interrupted run keeps its results.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import segnets
from benchmarks.deploy.candidates import NETWORKS, SIZE
from benchmarks.deploy.files import channels_last, torchvision_network
from segnets.deploy import load_exported
from segnets.preprocessing import Preprocessing

_CALLS = 20
_OURS, _EAGER = "segnets torchscript cuda", "torchvision, autocast, channels_last"
_COMPILED = "torchvision, torch.compile(max-autotune)"
_RESULTS = Path(__file__).parents[1] / "results" / "gpu.md"

Row = tuple[str, str, int, dict[str, float]]
"""Network, precision, batch, and milliseconds of a call by candidate."""


def candidates(network: str, dtype: str, folder: Path, *, compiled: bool) -> dict[str, Callable[[Tensor], object]]:
    """Return the functions to measure, by name; each takes a normalised (N, 3, H, W) float32 image on the GPU."""
    theirs = torchvision_network(network)
    ours = segnets.create_model(network)
    segnets.load_weights(ours, dict(theirs.state_dict()))
    path = folder / f"{network}-{dtype}.ts"
    segnets.export(ours, path, device="cuda", dtype=dtype, preprocessing=Preprocessing())
    exported = load_exported(path)
    theirs = channels_last(theirs.cuda())

    def with_autocast(model: Callable[[Tensor], dict[str, Tensor]]) -> Callable[[Tensor], Tensor]:
        def call(image: Tensor) -> Tensor:
            with torch.inference_mode(), torch.autocast("cuda", getattr(torch, dtype)):
                return model(image.contiguous(memory_format=torch.channels_last))["out"]

        return call

    calls: dict[str, Callable[[Tensor], object]] = {_EAGER: with_autocast(theirs), _OURS: exported.logits}
    if compiled:
        # Otherwise a second batch size makes it compile for all sizes, which is slower.
        calls[_COMPILED] = with_autocast(torch.compile(theirs, mode="max-autotune", dynamic=False))
    return calls


def milliseconds(call: Callable[[Tensor], object], image: Tensor) -> float:
    """Return the duration of one call, the median of _CALLS."""
    times: list[float] = []
    for _ in range(_CALLS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(image)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def page(rows: list[Row], rounds: int) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "# Exports for CUDA compared with torchvision\n"
    yield f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {SIZE}x{SIZE}, milliseconds per call, medians of"
    yield f"{rounds} rounds in turns; images/s is that of segnets. `python -m benchmarks.deploy.gpu` repeats the"
    yield "measurement.\n"
    yield f"| | precision | batch | {_EAGER} | {_COMPILED} | {_OURS} | images/s | autocast : ours | compiled : ours |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for network, dtype, batch, times in rows:
        ours, eager, compiled = times[_OURS], times[_EAGER], times.get(_COMPILED)
        cells = (
            f"{eager:.2f}",
            f"{compiled:.2f}" if compiled else "-",
            f"{ours:.2f}",
            f"{1000 * batch / ours:.0f}",
            f"{eager / ours:.2f}",
            f"{compiled / ours:.2f}" if compiled else "-",
        )
        yield f"| {network} | {dtype} | {batch} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--dtypes", nargs="+", default=["float16", "bfloat16"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--compile",
        nargs="*",
        default=list(NETWORKS),
        choices=NETWORKS,
        help="networks to measure with torch.compile too",
    )
    parser.add_argument("--out", type=Path, default=_RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("CUDA finds no GPU")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for network in options.networks:
            for dtype in options.dtypes:
                calls = candidates(network, dtype, Path(folder), compiled=network in options.compile)
                for batch in options.batches:
                    image = torch.rand(batch, 3, SIZE, SIZE, device="cuda")
                    for call in calls.values():
                        milliseconds(call, image)  # compiles, and selects kernels
                    rounds = [{n: milliseconds(c, image) for n, c in calls.items()} for _ in range(options.rounds)]
                    rows.append(
                        (network, dtype, batch, {n: statistics.median(each[n] for each in rounds) for n in calls})
                    )
                    options.out.write_text("\n".join(page(rows, options.rounds)) + "\n")
                    print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
