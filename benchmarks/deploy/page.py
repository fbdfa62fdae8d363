"""Write docs/speed.md and its plot from results of `benchmarks.deploy.speed`: `python -m benchmarks.deploy.page`."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.deploy.candidates import CANDIDATES, NETWORKS
from benchmarks.deploy.speed import RESULTS, Kept, key_of
from benchmarks.measure import machine

# Ratios to report: name, our candidate, and the other candidates, of which the fastest counts.
_BASELINE = "torchvision scripted"
_BFLOAT16 = ("segnets torchscript cpu bfloat16", "segnets aoti bfloat16")
_PORTABLE = "segnets torchscript portable"
_CLAIMS = (
    ("portable : scripted", _PORTABLE, (_BASELINE,)),
    ("cpu float32 : scripted", "segnets torchscript cpu float32", (_BASELINE,)),
    ("cpu float32 : ONNX Runtime", "segnets torchscript cpu float32", ("ONNX Runtime",)),
    ("aoti float32 : best of ONNX Runtime, OpenVINO", "segnets aoti float32", ("ONNX Runtime", "OpenVINO float32")),
    ("cpu bfloat16 : OpenVINO bfloat16", "segnets torchscript cpu bfloat16", ("OpenVINO bfloat16",)),
    ("aoti bfloat16 : OpenVINO bfloat16", "segnets aoti bfloat16", ("OpenVINO bfloat16",)),
    ("int8 in ONNX Runtime : our bfloat16", "segnets int8, ONNX Runtime", _BFLOAT16),
    ("int8 in OpenVINO : our bfloat16", "segnets int8, OpenVINO", _BFLOAT16),
)
Runs = Sequence[Kept]
"""Results of the large run and of later ones, each of candidates that took turns.

A time is from the first run that has the candidate, a ratio from the first that has both. Exports that became faster
are removed from the large run, and measured again with the candidates that they are compared with.
"""

_DOCS = Path(__file__).parents[2] / "docs"
_PLOTTED = (2, 1)  # threads, batch


def lines(runs: Runs, machine: str) -> Iterator[str]:
    """Yield the lines of the page, which has only what was measured; `machine` is where most of it was."""
    yield "# Exports compared with other runtimes\n"
    yield f"{machine}. 520x520, milliseconds per call."
    yield "Every candidate runs in a process of its own, and they take turns. A time is the median over the rounds. A"
    yield "ratio is the median of the ratios within each round, because the machine's speed drifts. `make bench-deploy`"
    yield 'measures again and writes this page. Both int8 columns use one file, `format="onnx", dtype="int8"`. Files'
    yield "of `aoti` were compiled with as many threads as they run with. torchvision returns its memory after each"
    yield "call and waits for new pages in the next: a large part of its time with large batches, or after other"
    yield "candidates' turns. Exports that became faster later were measured again, in turns with the candidates that"
    yield "they are compared with (`deploy_*.json` next to `benchmarks/results/deploy.json`); their times and ratios"
    yield "are from that run."
    if _PORTABLE not in _shown_names(runs):
        yield "The portable exports were measured on another machine, and have ratios only."
    yield "\nIn the picture, a bar is missing where no run measured both the export and torchvision's scripted module."
    yield "\n![Speed relative to torchvision's scripted module](speed.svg)"
    rounds_of = [(tuple(map(int, key.split("|")[1:3])), len(times)) for kept in runs for key, times in kept.items()]
    for threads, batch in sorted({setting for setting, _ in rounds_of}, key=lambda pair: (-pair[0], pair[1])):
        rounds = [count for setting, count in rounds_of if setting == (threads, batch)]
        name = f"{threads} thread{'s' if threads > 1 else ''}, batch {batch}"
        yield f"\n## {name}\n\nRounds: {min(rounds)} to {max(rounds)}.\n"
        yield from _times(runs, threads, batch)
        yield "\nSpeed-up (above 1: ours is faster):\n"
        yield from _ratios(runs, threads, batch)


def _shown_names(runs: Runs) -> list[str]:
    """Return the candidates whose times compare: without portable exports, if the large run lacks them."""
    portable = any(key.endswith(f"|{_PORTABLE}") for key in runs[0])
    return [c.name for c in CANDIDATES if c.name != _PORTABLE or portable]


def _times(runs: Runs, threads: int, batch: int) -> Iterator[str]:
    shown = [
        name for name in _shown_names(runs) if any(_milliseconds(runs, each, threads, batch, name) for each in NETWORKS)
    ]
    yield f"| | {' | '.join(shown)} |"
    yield "|---|" + "---|" * len(shown)
    for network in NETWORKS:
        times = [_milliseconds(runs, network, threads, batch, name) for name in shown]
        if any(times):
            yield f"| {network} | {' | '.join(_shown(time) for time in times)} |"


def _shown(milliseconds: float) -> str:
    """Format a time with four digits and no exponent; "-" if it was not measured."""
    return "-" if not milliseconds else f"{milliseconds:.0f}" if milliseconds >= 1000 else f"{milliseconds:.4g}"


def _ratios(runs: Runs, threads: int, batch: int) -> Iterator[str]:
    yield f"| | {' | '.join(name for name, _, _ in _CLAIMS)} |"
    yield "|---|" + "---|" * len(_CLAIMS)
    for network in NETWORKS:
        cells = []
        for _, ours, theirs in _CLAIMS:
            ratio = _ratio(runs, network, threads, batch, ours, theirs)
            cells.append(f"{ratio:.2f}" if ratio else "-")
        if set(cells) != {"-"}:
            yield f"| {network} | {' | '.join(cells)} |"


def _ratio(runs: Runs, network: str, threads: int, batch: int, ours: str, theirs: tuple[str, ...]) -> float:
    """Return our speed relative to the fastest of theirs, the median over rounds; 0 if either was not measured."""
    for kept in runs:
        own = kept.get(key_of(network, threads, batch, ours))
        others = [kept[key] for name in theirs if (key := key_of(network, threads, batch, name)) in kept]
        if own and others:
            fastest = min(others, key=statistics.median)
            return statistics.median(other / each for other, each in zip(fastest, own, strict=True))
    return 0.0


def _milliseconds(runs: Runs, network: str, threads: int, batch: int, name: str) -> float:
    """Return the median time of a call; 0 if it was not measured."""
    key = key_of(network, threads, batch, name)
    return next((statistics.median(kept[key]) for kept in runs if key in kept), 0.0)


def plot(runs: Runs, path: Path) -> None:
    """Plot the speed of every candidate relative to the baseline, for the networks that were measured."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "segnets"  # the same bytes for the same figures
    names = [c.name for c in CANDIDATES if c.name != _BASELINE]
    networks = [each for each in NETWORKS if _milliseconds(runs, each, *_PLOTTED, _BASELINE)]
    figure = Figure(figsize=(10, 2 + 1.8 * len(networks)), layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(names):
        for row, network in enumerate(networks):
            if ratio := _ratio(runs, network, *_PLOTTED, name, (_BASELINE,)):
                place = row + index / (len(names) + 1.5)
                label = name if row == 0 else None
                bar = axes.barh(place, ratio, 0.8 / len(names), label=label, color=f"C{index}")
                axes.bar_label(bar, fmt="%.2f", fontsize=6, padding=2)
    axes.set_yticks([row + 0.4 for row in range(len(networks))], networks)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"times as fast as {_BASELINE} ({_PLOTTED[0]} threads, batch {_PLOTTED[1]})")
    figure.legend(fontsize=7, loc="outside lower center", ncols=4)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    usual = [RESULTS / "deploy.json", *sorted(RESULTS.glob("deploy_*.json"))]
    parser.add_argument("--results", type=Path, nargs="+", default=usual, help="files of results, the large run first")
    parser.add_argument(
        "--machine", default=machine(), help="where the large run was measured; this machine if left out"
    )
    parser.add_argument("--out", type=Path, default=_DOCS, help="folder of speed.md and speed.svg")
    options = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in options.results]
    (options.out / "speed.md").write_text("\n".join(lines(runs, options.machine)) + "\n")
    plot(runs, options.out / "speed.svg")


if __name__ == "__main__":
    main()
