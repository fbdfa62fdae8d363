"""Measure candidates in turns, each in its own process, and report medians.

Separate processes keep the thread pools and caches of one candidate from affecting another. Candidates take turns
because the machine's speed drifts. Compare ratios of medians from the same run only.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

# Runs in the candidate's process. Only `work` is measured. Its peak memory is the kernel's high-water mark, less the
# memory that is resident after `prepare`; getrusage would count the parent's memory too.
_HARNESS = """
import json, sys, time
def kib(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))
{prepare}
before = kib("VmRSS")
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
print(json.dumps({{"seconds": seconds, "peak_mib": (kib("VmHWM") - before) / 1024}}))
"""


def run_once(prepare: str, work: str) -> dict[str, float]:
    """Run one candidate in a fresh process."""
    script = _HARNESS.format(prepare=prepare, work=work)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"candidate failed:\n{script}\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def take_turns(candidates: Mapping[str, tuple[str, str]], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Measure all candidates in turn and return one result per round for each name.

    Args:
        candidates: Pairs (prepare, work) of Python code, by name.
        rounds: Number of rounds, after a first one that warms the disk cache and is dropped.
    """
    results: dict[str, list[dict[str, float]]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, (prepare, work) in candidates.items():
            result = run_once(prepare, work)
            if turn > 0:
                results[name].append(result)
    return results


def median(results: list[dict[str, float]], what: str = "seconds") -> float:
    return statistics.median(result[what] for result in results)


def machine() -> str:
    """Describe this machine and its software in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "safetensors"))
    return f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"
