"""Compare the latency of exports with other runtimes: `python -m benchmarks.deploy.speed`.

Every candidate runs in its own process, which lives through all rounds and sleeps between its turns. In one process,
thread pools that spin would slow down the others. The machine's speed drifts by a third within seconds, so turns are
short and ratios are taken within a round. The first call of each turn warms the caches and is not counted, unless
calls take so long that it makes no difference. Faster networks take more rounds.
The results of a setting (network, threads, batch) are saved once all candidates are measured, so that an interrupted
run can continue.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.deploy import files
from benchmarks.deploy.candidates import CANDIDATES, NETWORKS, Candidate
from benchmarks.deploy.worker import Worker

RESULTS = Path(__file__).parents[1] / "results"

# Seconds of one turn of a candidate, and of all turns for fast networks.
_TURN, _ALL = 0.5, 10.0
# TorchScript compiles again in the second call.
_WARM = 2
# Calls that take this many seconds need no warm-up in each turn: the first call takes only 30 to 60 ms longer.
_LONG = 3.0

Kept = dict[str, list[float]]
"""Milliseconds of every round, by "network|threads|batch|candidate"."""


def key_of(network: str, threads: int, batch: int, candidate: str) -> str:
    return f"{network}|{threads}|{batch}|{candidate}"


def measure(
    network: str, candidates: Sequence[Candidate], folder: Path, *, threads: int, batch: int, rounds: int
) -> dict[str, list[float]]:
    """Return the milliseconds of a call in each of at least `rounds` rounds, by candidate."""
    with ExitStack() as stack:
        workers, usual = {}, {}
        for candidate in candidates:
            code = candidate.code(network, folder, threads=threads, batch=batch)
            worker = stack.enter_context(Worker(f"{candidate.name}, {network}", *code, threads=threads))
            # One long call with a batch warms up as much as two with one image.
            usual[candidate.name] = worker.seconds(_WARM if batch == 1 else 1)[-1]
            workers[candidate.name] = worker
        calls = {name: max(1, round(_TURN / seconds)) for name, seconds in usual.items()}
        slowest = max(calls[name] * seconds for name, seconds in usual.items())
        results: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(max(rounds, round(_ALL / max(slowest, _TURN)))):
            for name, worker in workers.items():
                dropped = int(usual[name] < _LONG)
                results[name].append(1000 * statistics.median(worker.seconds(calls[name] + dropped)[dropped:]))
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5, help="smallest number of rounds")
    names = [candidate.name for candidate in CANDIDATES]
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="CANDIDATE", help="full names")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"), help="folder for the files")
    parser.add_argument("--out", type=Path, default=RESULTS / "deploy.json")
    options = parser.parse_args()
    chosen = [candidate for candidate in CANDIDATES if candidate.name in options.only]
    kept: Kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    for network in options.networks:
        wanted = [c.file_for(threads) for threads in options.threads for c in chosen if c.file]
        files.make(network, options.folder, [".pth", *wanted])
    for threads in options.threads:
        for batch in options.batches:
            for network in options.networks:
                if all(key_of(network, threads, batch, c.name) in kept for c in chosen):
                    continue
                measured = measure(network, chosen, options.folder, threads=threads, batch=batch, rounds=options.rounds)
                # Drop earlier results of this setting, which are from other rounds.
                setting = key_of(network, threads, batch, "")
                kept = {key: times for key, times in kept.items() if not key.startswith(setting)}
                kept |= {key_of(network, threads, batch, name): times for name, times in measured.items()}
                options.out.parent.mkdir(exist_ok=True)
                options.out.write_text(_text(kept))
                shown = ", ".join(f"{name} {statistics.median(times):.1f}" for name, times in measured.items())
                print(f"{time.strftime('%H:%M')} {network}, threads {threads}, batch {batch}, ms: {shown}", flush=True)


def _text(kept: Kept) -> str:
    """Format the results as JSON with one line per candidate."""
    lines = (f"{json.dumps(key)}: {json.dumps([round(each, 2) for each in kept[key]])}" for key in sorted(kept))
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
