"""Latency of the exports beside other runtimes: `python -m benchmarks.deploy.speed`.

Every candidate runs in a process of its own and they take turns over several rounds, since thread pools that spin slow
the others and the machine's speed drifts. A round's figure is the median of its calls after two to warm up; the table
has medians of rounds. What was measured is kept after every round, so that a long run can be stopped and goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.deploy import files
from benchmarks.deploy.candidates import CANDIDATES, NETWORKS, Candidate

RESULTS = Path(__file__).parents[1] / "results"

_HARNESS = """
import json, time
{prepare}
seconds = []
started = time.perf_counter()
while len(seconds) < {warm} + {least} or (time.perf_counter() - started < {budget} and len(seconds) < {warm} + 30):
    start = time.perf_counter()
{call}
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


def run_once(candidate: Candidate, network: str, folder: Path, *, threads: int, batch: int) -> list[float]:
    """Seconds of every call in a fresh process, the first two of them to warm up."""
    prepare, call = candidate.code(network, folder, threads=threads, batch=batch)
    indented = "\n".join(f"    {line}" for line in call.strip().splitlines())
    script = _HARNESS.format(prepare=prepare, call=indented, warm=2, least=1 if batch > 1 else 3, budget=3)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{candidate.name} on {network} failed:\n{done.stderr[-2000:]}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=None, help="parts of candidates' names")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"), help="where the files are made")
    parser.add_argument("--out", type=Path, default=RESULTS / "deploy.json")
    options = parser.parse_args()
    chosen = [c for c in CANDIDATES if options.only is None or any(part in c.name for part in options.only)]
    kept: dict[str, list[list[float]]] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for network in options.networks:
        files.make(network, options.folder, [".pth", *(c.file for c in chosen if c.file)])
    for threads in options.threads:
        for batch in options.batches:
            for network in options.networks:
                for turn in range(options.rounds):
                    for candidate in chosen:
                        key = f"{network}|{threads}|{batch}|{candidate.name}"
                        if len(kept.get(key, [])) > turn:
                            continue
                        seconds = run_once(candidate, network, options.folder, threads=threads, batch=batch)
                        kept.setdefault(key, []).append(seconds)
                        options.out.parent.mkdir(exist_ok=True)
                        options.out.write_text(json.dumps(kept, indent=0, sort_keys=True))
                shown = ", ".join(
                    f"{c.name} {1000 * median(kept[f'{network}|{threads}|{batch}|{c.name}']):.1f}" for c in chosen
                )
                print(f"{time.strftime('%H:%M')} {network}, threads {threads}, batch {batch}, ms: {shown}", flush=True)


def median(rounds: list[list[float]]) -> float:
    """Of rounds' medians, without each round's first two calls."""
    return statistics.median(statistics.median(seconds[2:]) for seconds in rounds)


if __name__ == "__main__":
    main()
