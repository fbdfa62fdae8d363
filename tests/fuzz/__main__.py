"""Run the engines in worker processes and print what they found: `python -m tests.fuzz`. Exit 1 if a promise broke."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz import STAGES

ENGINES = ("structure", "coverage")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the reader of foreign files.")
    parser.add_argument(
        "--engine", choices=ENGINES, help="run one engine only (default: both, if atheris is installed)"
    )
    parser.add_argument("--executions", type=int, default=100_000, help="in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="fixes the inputs of the structure engine")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes at a time (default %(default)s)")
    parser.add_argument("--save-failures", type=Path, default=Path("build/fuzz"), metavar="DIR")
    options = parser.parse_args()
    engines = [options.engine] if options.engine else list(ENGINES)
    if options.engine is None and importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (it needs Python 3.11 to 3.13): no coverage engine", file=sys.stderr)
        engines.remove("coverage")
    options.save_failures.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: with the report of what was done
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="segnets-fuzz-", dir=memory if memory.is_dir() else None))
    shares = [(engine, job) for job in range(options.jobs) for engine in engines]
    tasks = []
    for index, (engine, job) in enumerate(shares):
        share = len(range(index, options.executions, len(shares)))
        task = {"engine": engine, "executions": share, "seed": options.seed * 1000 + job}
        tasks.append({**task, "failures": str(options.save_failures), "folder": str(folder / f"{engine}-{job}")})
    lost: list[str] = []
    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            lost = [each for each in pool.map(_run, tasks) if each]
    except KeyboardInterrupt:
        print("interrupted: the report covers what was done")
    failed = _report([_record(task) for task in tasks], lost)
    shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


def _run(task: dict[str, Any]) -> str:
    """Run one worker; if it ended too early, save its last input and return what happened."""
    folder = Path(task["folder"])
    folder.mkdir()
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-c", f"from tests.fuzz.__main__ import work; work({task})"]
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    if code == 0 and _record(task)["done"]:
        return ""
    if (last := folder / "box" / "w.pth").exists():
        shutil.copy(last, Path(task["failures"], f"lost-{folder.name}.bin"))
    return f"{folder.name} ended with {code}: {(folder / 'log').read_text(errors='replace')[-2000:]}"


def work(task: dict[str, Any]) -> None:
    """Run one engine in this process."""
    if task["engine"] == "coverage":
        import atheris

        assert "weights_tools" not in sys.modules, "imported before atheris can observe it"
        with atheris.instrument_imports(include=["weights_tools", "segnets.weights", "segnets.options"]):
            importlib.import_module("tests.fuzz.reading")
    importlib.import_module("tests.fuzz.engines").work(task)


def _record(task: dict[str, Any]) -> dict[str, Any]:
    path = Path(task["folder"], "record.json")
    empty = {"done": False, "executions": 0, "reached": {}, "failures": {}, "slowest": 0.0, "peak": 0}
    return json.loads(path.read_text()) if path.exists() else empty


def _report(records: list[dict[str, Any]], lost: list[str]) -> bool:
    """Print the counts and the failures; tell whether there were any."""
    reached = sum((Counter[str](record["reached"]) for record in records), Counter[str]())
    print(f"{'container':<12}" + "".join(f"{stage:>11}" for stage in STAGES) + "   past the container")
    for container in sorted({key.split()[0] for key in reached}):
        counts = [reached[f"{container} {stage}"] for stage in STAGES]
        print(f"{container:<12}" + "".join(f"{n:>11,}" for n in counts) + f"{sum(counts[1:]) / sum(counts):>20.1%}")
    failures = sorted({what for record in records for what in record["failures"].values()}) + lost
    slowest, peak = (max(record[key] for record in records) for key in ("slowest", "peak"))
    total = sum(record["executions"] for record in records)
    print(f"{total:,} executions, {slowest:.2f} s at most, {peak >> 20} MiB at most, {len(failures)} kinds of failure")
    print(*(f"FAILURE {what}" for what in failures), sep="\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
