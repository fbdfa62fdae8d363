"""Watch what reading a file does: time, memory, forbidden actions, and what it leaves open.

Time is CPU time of this process, so that other programs don't disturb it; a clock catches waits that never end. Memory
is the largest resident size, compared with the size after every seed was read once, so that slow leaks show too. An
audit hook stops a forbidden action before it happens.
"""

from __future__ import annotations

import ast
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_FORBIDDEN = (
    "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.kill", "os.symlink", "os.chown",
    "os.putenv", "os.unsetenv", "os.startfile", "pty.", "subprocess.", "socket.", "ctypes.dlopen", "pickle.", "exec",
    "compile", "import", "marshal.load", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "code.__new__",
)  # fmt: skip
_ON_PATHS = ("os.mkdir", "os.link", "os.rmdir", "os.remove", "os.rename", "os.truncate", "os.chmod", "shutil.")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FASTEST_FILLING = 25e9  # bytes per second, faster than memory can be allocated and written


@dataclass(frozen=True)
class Limits:
    """Limits for one file: CPU seconds, seconds by the clock, bytes of memory, characters and lines of a message."""

    seconds: float = 5.0
    clock: float = 60.0
    memory: int = 512 << 20
    message: int = 8000
    lines: int = 60


class BrokenPromiseError(Exception):
    """A promise that the reader broke; `kind` names it in a word."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class _Stop(BaseException):
    """Stops an execution; `except Exception` in the code under test can't swallow it."""


class Watch:
    """A monitor of executions whose files lie in `folder`. Audit hooks stay, so a process has one monitor only."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = str(folder.resolve())
        self.limits = limits
        self.peak = 0  # bytes beyond the size after `settle`
        self._active = False
        self._executions = 0
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGPROF, self._interrupt)
        signal.signal(signal.SIGALRM, self._interrupt)

    def settle(self) -> None:
        """Take the memory, threads and descriptors of this moment as the baseline."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets the largest resident size
        self._base, self.peak = peak_memory(), 0
        self._open = _threads_and_descriptors()

    @contextmanager
    def execution(self) -> Iterator[None]:
        """Raise BrokenPromiseError if the body breaks a promise."""
        signal.setitimer(signal.ITIMER_PROF, self.limits.seconds)
        signal.setitimer(signal.ITIMER_REAL, self.limits.clock)
        before = time.process_time()
        self._active = True
        try:
            yield
        except _Stop as stop:
            raise BrokenPromiseError(*stop.args) from stop
        finally:
            self._active = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        # Asking takes as long as reading a small file: ask only after executions long enough to fill the memory.
        self._executions += 1
        if time.process_time() - before > self.limits.memory / _FASTEST_FILLING or self._executions % 256 == 0:
            self._check_memory()
        if (found := _threads_and_descriptors()) != self._open:
            self.settle()
            raise BrokenPromiseError("left open", f"{found[0]} threads and {found[1]} file descriptors")

    def _check_memory(self) -> None:
        self.peak = max(self.peak, peak_memory() - self._base)
        if self.peak > self.limits.memory:
            used = self.peak
            self.settle()
            raise BrokenPromiseError("memory", f"{used >> 20} MiB more than after the seeds")

    def _interrupt(self, number: int, _frame: object) -> None:
        if self._active:
            raise _Stop("hang", "too much CPU time" if number == signal.SIGPROF else "waited too long")

    def _audit(self, event: str, args: tuple[object, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            bad = isinstance(args[2], int) and args[2] & _WRITING and not self._inside(args[0])
        elif event.startswith(_ON_PATHS):
            bad = not self._inside(args[0])
        elif event == "compile":  # parsing to a syntax tree is only reading; running one is another event
            bad = sys._getframe(1).f_code is not ast.parse.__code__
        else:
            bad = event.startswith(_FORBIDDEN)
        if bad:
            raise _Stop("executed", f"{event} {[str(arg)[:200] for arg in args[:3]]}")

    def _inside(self, path: object) -> bool:
        if isinstance(path, int):  # an open file
            return True
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        return os.path.realpath(text).startswith(self.folder + os.sep)


def _threads_and_descriptors() -> tuple[int, int]:
    with os.scandir("/proc/self/fd") as entries:
        return threading.active_count(), sum(1 for _ in entries)


def peak_memory() -> int:
    """Return the largest resident size of this process since it was last reset, in bytes."""
    # resource.getrusage starts with the size of the parent process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def cap_memory(more: int) -> None:
    """Limit the address space of this process to `more` bytes beyond its present size."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
