"""The processes of a run and their common report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.reading import STAGES

_SILENT = 180.0  # seconds without a new input, after which a process hangs in code that no signal reaches
_TELL_EVERY = 60.0
_PAST_CONTAINER = STAGES[2:]


@dataclass(frozen=True)
class Task:
    """A share of the executions of one engine."""

    engine: str
    executions: int
    seconds: float
    seed: int
    extremes: bool = False


@dataclass
class Report:
    """What a run found. lost: processes that ended by themselves or had to be ended."""

    records: list[tuple[Task, dict[str, Any]]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = []
        reached: Counter[tuple[str, str]] = Counter()
        messages: set[str] = set()
        for _, record in self.records:
            for container, stage, count in record["reached"]:
                reached[container, stage] += count
            messages |= set(record["messages"])
        total = sum(record["executions"] for _, record in self.records)
        lines.append(f"{'engine':<12}{'executions':>12}{'per second':>12}{'slowest':>10}{'memory':>10}")
        for engine in sorted({task.engine for task, _ in self.records}):
            own = [record for task, record in self.records if task.engine == engine]
            count = sum(record["executions"] for record in own)
            rate = sum(record["executions"] / max(record["seconds"], 1e-9) for record in own) / len(own)
            slowest, peak = max(r["slowest"] for r in own), max(r["peak"] for r in own)
            lines.append(f"{engine:<12}{count:>12,}{rate:>12.0f}{slowest:>8.2f} s{peak >> 20:>6} MiB")
        lines.append("")
        lines.append(f"{'container':<12}" + "".join(f"{stage:>11}" for stage in STAGES) + "   past the container")
        for container in sorted({container for container, _ in reached}):
            counts = [reached[container, stage] for stage in STAGES]
            share = sum(reached[container, stage] for stage in _PAST_CONTAINER) / sum(counts)
            lines.append(f"{container:<12}" + "".join(f"{n:>11,}" for n in counts) + f"{share:>20.1%}")
        past = sum(count for (_, stage), count in reached.items() if stage in _PAST_CONTAINER)
        lines.append(
            f"{total:,} executions, {past / max(total, 1):.1%} of them past the checks of their container, "
            f"{len(messages)} distinct messages, {len(self.failures)} kinds of failure"
        )
        lines += [f"FAILURE {name}: {what}" for name, what in sorted(self.failures.items())]
        return "\n".join(lines)


def run(tasks: list[Task], *, jobs: int, failures: Path) -> Report:
    """Run every task, `jobs` at a time. Failing inputs are written to the folder `failures`."""
    failures.mkdir(parents=True, exist_ok=True)
    report = Report()
    waiting = list(tasks)
    told = time.monotonic()
    running: list[_Process] = []
    memory = Path("/dev/shm")
    where = Path(tempfile.mkdtemp(prefix="segnets-fuzz-", dir=memory if memory.is_dir() else None))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Process(waiting.pop(0), where / str(len(waiting)), failures))
            time.sleep(0.5)
            for process in [process for process in running if process.ended()]:
                running.remove(process)
                process.into(report, failures)
                print(f"# {process.task.engine}: {process.record['executions']:,} executions", flush=True)
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                print(_progress(report, running), flush=True)
    except KeyboardInterrupt:
        print("# interrupted: what follows is the part that was done", flush=True)
        for process in running:
            process.read_record()
            report.records.append((process.task, process.record))
            report.failures |= process.record["failures"]
    finally:
        for process in running:
            process.child.kill()
        shutil.rmtree(where, ignore_errors=True)
    return report


def _progress(report: Report, running: list[_Process]) -> str:
    for process in running:
        process.read_record()
    records = [record for _, record in report.records] + [process.record for process in running]
    total = sum(record["executions"] for record in records)
    kinds = set().union(*(record["failures"] for record in records))
    return f"# {total:,} executions so far, {len(kinds)} kinds of failure"


class _Process:
    def __init__(self, task: Task, folder: Path, failures: Path) -> None:
        folder.mkdir()
        self.task = task
        self.folder = folder
        self.log = (folder / "log").open("w")
        arguments = {"engine": task.engine, "executions": task.executions, "seconds": task.seconds, "seed": task.seed}
        arguments |= {"folder": folder, "failures": failures}
        command = [sys.executable, "-m", "fuzz.worker", *(f"--{name}={value}" for name, value in arguments.items())]
        if task.extremes:
            command.append("--extremes")
        self.child = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        self.started = time.time()
        self.record: dict[str, Any] = {"executions": 0, "reached": [], "messages": [], "seconds": 0.0}
        self.record |= {"failures": {}, "slowest": 0.0, "peak": 0, "done": False}

    def ended(self) -> bool:
        if self.child.poll() is not None:
            return True
        current = self.folder / "box" / "w.pth"
        newest = current.stat().st_mtime if current.exists() else self.started
        if time.time() - newest > _SILENT:
            self.child.kill()
            self.child.wait()
            return True
        return False

    def read_record(self) -> None:
        path = self.folder / "record.json"
        if path.exists():
            self.record = json.loads(path.read_text())

    def into(self, report: Report, failures: Path) -> None:
        """Add what this process found; one that did not end as it should has its last input saved."""
        self.log.close()
        self.read_record()
        report.records.append((self.task, self.record))
        report.failures |= self.record["failures"]
        if self.child.returncode != 0 or not self.record["done"]:
            name = f"lost-{self.task.engine}-{self.task.seed}"
            current = self.folder / "box" / "w.pth"
            if current.exists():
                shutil.copy(current, failures / f"{name}.bin")
            tail = (self.folder / "log").read_text(errors="replace")[-2000:]
            report.failures[name] = f"the process ended with {self.child.returncode}: {tail}"
