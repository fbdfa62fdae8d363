"""docs/speed.md and its plot from what `benchmarks.deploy.speed` kept: `python -m benchmarks.deploy.page`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.deploy.candidates import CANDIDATES, NETWORKS
from benchmarks.deploy.speed import RESULTS, median
from benchmarks.measure import machine

Kept = dict[str, list[list[float]]]

# Ratios of one run: what it is called, ours, and theirs, of which the fastest counts.
_BASELINE = "torchvision scripted"
_BFLOAT16 = ("segnets torchscript cpu bfloat16", "segnets aoti bfloat16")
_CLAIMS = (
    ("cpu float32 : scripted", "segnets torchscript cpu float32", (_BASELINE,)),
    ("cpu float32 : ONNX Runtime", "segnets torchscript cpu float32", ("ONNX Runtime",)),
    ("aoti float32 : best of ONNX Runtime, OpenVINO", "segnets aoti float32", ("ONNX Runtime", "OpenVINO float32")),
    ("cpu bfloat16 : OpenVINO bfloat16", "segnets torchscript cpu bfloat16", ("OpenVINO bfloat16",)),
    ("aoti bfloat16 : OpenVINO bfloat16", "segnets aoti bfloat16", ("OpenVINO bfloat16",)),
    ("int8 in ONNX Runtime : our bfloat16", "segnets int8, ONNX Runtime", _BFLOAT16),
    ("int8 in OpenVINO : our bfloat16", "segnets int8, OpenVINO", _BFLOAT16),
)
_DOCS = Path(__file__).parents[2] / "docs"
_PLOTTED = (2, 1)  # threads, batch


def lines(kept: Kept) -> Iterator[str]:
    """The page, a line at a time; only what was measured stands in it."""
    yield "# Exports beside other runtimes\n"
    yield f"{machine()}. 520x520, milliseconds per call."
    yield "Every candidate runs in a process of its own and they take turns; a figure is the median of rounds' medians,"
    yield "after two calls to warm up. `make bench-deploy` measures anew and writes this page. Both int8 columns are of"
    yield 'one file, `format="onnx", dtype="int8"`.'
    yield "\n![Speed relative to torchvision's scripted module](speed.svg)"
    settings = sorted({tuple(map(int, key.split("|")[1:3])) for key in kept}, key=lambda pair: (-pair[0], pair[1]))
    for threads, batch in settings:
        rounds = [len(value) for key, value in kept.items() if key.split("|")[1:3] == [str(threads), str(batch)]]
        yield f"\n## {threads} threads, batch {batch}\n\nRounds: {min(rounds)}.\n"
        yield from _times(kept, threads, batch)
        yield "\nTimes as fast (above 1: ours is faster):\n"
        yield from _ratios(kept, threads, batch)


def _times(kept: Kept, threads: int, batch: int) -> Iterator[str]:
    shown = [c.name for c in CANDIDATES if any(f"|{threads}|{batch}|{c.name}" in key for key in kept)]
    yield f"| | {' | '.join(shown)} |"
    yield "|---|" + "---|" * len(shown)
    for network in NETWORKS:
        times = [_milliseconds(kept, network, threads, batch, name) for name in shown]
        if any(times):
            yield f"| {network} | {' | '.join(f'{time:.4g}' if time else '-' for time in times)} |"


def _ratios(kept: Kept, threads: int, batch: int) -> Iterator[str]:
    yield f"| | {' | '.join(name for name, _, _ in _CLAIMS)} |"
    yield "|---|" + "---|" * len(_CLAIMS)
    for network in NETWORKS:
        cells = []
        for _, ours, theirs in _CLAIMS:
            own = _milliseconds(kept, network, threads, batch, ours)
            others = [_milliseconds(kept, network, threads, batch, name) for name in theirs]
            cells.append(f"{min(filter(None, others)) / own:.2f}" if own and any(others) else "-")
        if set(cells) != {"-"}:
            yield f"| {network} | {' | '.join(cells)} |"


def _milliseconds(kept: Kept, network: str, threads: int, batch: int, name: str) -> float:
    """0 for what was not measured."""
    rounds = kept.get(f"{network}|{threads}|{batch}|{name}", [])
    return 1000 * median(rounds) if rounds else 0.0


def plot(kept: Kept, path: Path) -> None:
    """Bars of every candidate, as times as fast as the baseline, for the networks that were measured."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "segnets"  # the same bytes for the same figures
    names = [c.name for c in CANDIDATES if c.name != _BASELINE]
    networks = [each for each in NETWORKS if _milliseconds(kept, each, *_PLOTTED, _BASELINE)]
    figure = Figure(figsize=(10, 2 + 1.8 * len(networks)), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(names):
        for row, network in enumerate(networks):
            if time := _milliseconds(kept, network, *_PLOTTED, name):
                ratio = _milliseconds(kept, network, *_PLOTTED, _BASELINE) / time
                place = row + index / (len(names) + 1.5)
                label = name if row == 0 else None
                bar = axes.barh(place, ratio, 0.8 / len(names), label=label, color=f"C{index}")
                axes.bar_label(bar, fmt="%.2f", fontsize=6, padding=2)
    axes.set_yticks([row + 0.4 for row in range(len(networks))], networks)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"times as fast as {_BASELINE} ({_PLOTTED[0]} threads, batch {_PLOTTED[1]})")
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "deploy.json")
    parser.add_argument("--out", type=Path, default=_DOCS, help="the folder of speed.md and speed.svg")
    options = parser.parse_args()
    kept = json.loads(options.results.read_text())
    (options.out / "speed.md").write_text("\n".join(lines(kept)) + "\n")
    plot(kept, options.out / "speed.svg")


if __name__ == "__main__":
    main()
