"""Time candidates in turns, in processes that live through all rounds, and compare them within each round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.deploy.worker import Worker

THREADS = 2


def turns(candidates: Mapping[str, tuple[str, str]], rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each candidate, one number per round.

    Args:
        candidates: Pairs of code to prepare and code to time, by name.
        rounds: Number of rounds, after a first call that is dropped.
        calls: Number of calls per turn, of which the median counts. Of several, the first warms the caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name, *code, threads=THREADS)) for name, code in candidates.items()}
        for worker in workers.values():
            worker.seconds(1)
        for _ in range(rounds):
            for name, worker in workers.items():
                measured = worker.seconds(calls)
                seconds[name].append(statistics.median(measured[1:] or measured))
    return seconds


def ratio(over: list[float], under: list[float]) -> float:
    """Return the median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def milliseconds(seconds: list[float]) -> str:
    """Format the median."""
    return f"{1000 * statistics.median(seconds):.1f} ms"
