"""Run a candidate in its own process, which is timed in its turn and sleeps in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from types import TracebackType

# Runs `prepare`. For each number N that it reads, it prints the seconds of N calls.
_HARNESS = """
import json, sys, time
{prepare}
print("ready", flush=True)
for line in sys.stdin:
    seconds = []
    for _ in range(int(line)):
        start = time.perf_counter()
{call}
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds), flush=True)
"""


class Worker:
    """A process that runs one candidate. As a context manager it ends the process.

    Args:
        name: Name of the candidate, for messages.
        prepare: Python code that runs once.
        call: Python code that is timed.
        threads: Number of OpenMP threads.
    """

    def __init__(self, name: str, prepare: str, call: str, *, threads: int) -> None:
        self.name = name
        indented = "\n".join(f"        {line}" for line in call.strip().splitlines())
        script = _HARNESS.format(prepare=prepare, call=indented)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()

    def seconds(self, calls: int) -> list[float]:
        """Time a number of calls, and return the seconds of each.

        Raises:
            RuntimeError: If the process ended.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `_answer` then raises
            self._process.stdin.write(f"{calls}\n")
            self._process.stdin.flush()
        result: list[float] = json.loads(self._answer())
        return result

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.name}: the process exited with {self._process.wait()}. See its error output above."
            )
        return line

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
