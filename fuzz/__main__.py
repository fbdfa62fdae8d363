"""`python -m fuzz`: run the engines and print what they found. Exit 1 if a promise was broken."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
from dataclasses import replace
from pathlib import Path

from fuzz.engines import ENGINES
from fuzz.run import Task, run

# Of all executions, where every engine runs. Coverage finds new ways, chance takes them often; hypothesis is slow.
_SHARES = {"random": 0.5, "atheris": 0.4, "hypothesis": 0.1}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz the reader of foreign files.")
    parser.add_argument("--engine", choices=ENGINES, help="one only; default: all that are installed")
    parser.add_argument("--executions", type=int, default=100_000, help="altogether (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each process at most")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same inputs, but for atheris")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default %(default)s)")
    parser.add_argument("--save-failures", type=Path, default=Path("build/fuzz"), metavar="DIR")
    parser.add_argument("--no-extremes", action="store_true", help="leave out the files that take a second each")
    options = parser.parse_args()
    tasks = plan(options.engine, options.executions, options.seconds, options.seed, options.jobs)
    if options.no_extremes:
        tasks = [replace(task, extremes=False) for task in tasks]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: with the report of what was done
    report = run(tasks, jobs=options.jobs, failures=options.save_failures)
    print(report)
    if report.failures:
        print(f"the inputs are in {options.save_failures}", file=sys.stderr)
    return 1 if report.failures else 0


def plan(engine: str | None, executions: int, seconds: float, seed: int, jobs: int) -> list[Task]:
    """Give each engine its share, in as many processes as there are jobs."""
    shares = {engine: 1.0} if engine is not None else dict(_SHARES)
    if engine is None and importlib.util.find_spec("atheris") is None:
        print("# atheris is not installed (it needs Python 3.11 to 3.13): its share goes to chance", file=sys.stderr)
        shares["random"] += shares.pop("atheris")
    tasks = []
    for job in range(jobs):
        for name, share in shares.items():
            whole = round(executions * share)
            part = whole // jobs + (whole % jobs if job == 0 else 0)
            extremes = job == 0 and name == next(iter(shares))
            tasks.append(Task(name, part, seconds, seed * 1000 + job * 100 + ENGINES.index(name), extremes))
    return tasks


if __name__ == "__main__":
    sys.exit(main())
