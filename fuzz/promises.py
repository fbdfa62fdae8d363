"""What must hold whatever a file contains, and how it is measured: time, memory, nothing executed, nothing left open.

Time is the processor time of this process, so that other programs cannot spoil the measure; waiting for something that
never comes is caught by the clock. Memory is the largest resident size that the system ever saw, against the size
after every seed was read once: it also notices what is lost bit by bit. What the interpreter does is seen by an audit
hook, which stops a forbidden action before it happens.
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
from types import FrameType

_FORBIDDEN = (
    "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.kill", "os.symlink", "os.chown",
    "os.putenv", "os.unsetenv", "os.startfile", "pty.", "subprocess.", "socket.", "ctypes.dlopen", "pickle.", "exec",
    "compile", "import", "marshal.load", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "code.__new__",
)  # fmt: skip
_ON_PATHS = ("os.mkdir", "os.link", "os.rmdir", "os.remove", "os.rename", "os.truncate", "os.chmod", "shutil.")
_FASTEST_FILLING = 25e9  # bytes a second, faster than memory can be had and written to
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Limits:
    """seconds: of processor time for one file. clock: of waiting. memory: bytes more than after the seeds.

    message, lines: of what is said about a file.
    """

    seconds: float = 5.0
    clock: float = 60.0
    memory: int = 512 << 20
    message: int = 8000
    lines: int = 60


class BrokenPromiseError(Exception):
    """A promise that was not kept. kind: which one, in a word."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class _Stop(BaseException):
    """Ends an execution from outside; no `except Exception` in the code under test may swallow it."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Watch:
    """Measures executions whose files lie in `folder`. One for each process: audit hooks can't be taken away."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = str(folder.resolve())
        self.limits = limits
        self._active = False
        self._executions = 0
        self._base = self.peak = 0  # bytes of memory: after the seeds, and beyond that at most
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGPROF, self._too_long)
        signal.signal(signal.SIGALRM, self._too_long)

    def settle(self) -> None:
        """Take what the process holds now as the measure for all that follows."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the largest resident size begins anew
        self._base = peak_memory()
        self.peak = 0
        self._threads = threading.active_count()
        self._descriptors = _open_descriptors()

    @contextmanager
    def execution(self) -> Iterator[None]:
        """Raise BrokenPromiseError if what happens inside breaks a promise."""
        signal.setitimer(signal.ITIMER_PROF, self.limits.seconds)
        signal.setitimer(signal.ITIMER_REAL, self.limits.clock)
        before = time.process_time()
        self._active = True
        try:
            yield
        except _Stop as stop:
            raise BrokenPromiseError(stop.kind, str(stop)) from stop
        finally:
            self._active = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        # To ask takes as long as to read a small file, so only what took long enough to break the promise is asked.
        self._executions += 1
        if time.process_time() - before > self.limits.memory / _FASTEST_FILLING or self._executions % 256 == 0:
            self.check_memory()
        self._check_open()

    def check_memory(self) -> None:
        """Raise BrokenPromiseError if the process ever held more than it may."""
        self.peak = max(self.peak, peak_memory() - self._base)
        if self.peak > self.limits.memory:
            used = self.peak
            self.settle()
            raise BrokenPromiseError("memory", f"{used >> 20} MiB more than after the seeds")

    def _check_open(self) -> None:
        threads = threading.active_count()
        descriptors = _open_descriptors()
        if (threads, descriptors) != (self._threads, self._descriptors):
            self.settle()
            raise BrokenPromiseError("left open", f"{threads} threads and {descriptors} file descriptors")

    def _too_long(self, number: int, _frame: FrameType | None) -> None:
        if self._active:
            what = "of processor time" if number == signal.SIGPROF else "of waiting"
            limit = self.limits.seconds if number == signal.SIGPROF else self.limits.clock
            raise _Stop("hang", f"more than {limit:g} s {what}")

    def _audit(self, event: str, args: tuple[object, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            path, _, flags = args[:3]
            bad = isinstance(flags, int) and flags & _WRITING and not self._inside(path)
        elif event.startswith(_ON_PATHS):
            bad = not self._inside(args[0])
        elif event == "compile":  # to a syntax tree is no more than reading; running one would be another event
            bad = sys._getframe(1).f_code is not ast.parse.__code__
        else:
            bad = event.startswith(_FORBIDDEN)
        if bad:
            shown = [arg[:200] if isinstance(arg, str | bytes) else type(arg).__name__ for arg in args[:3]]
            raise _Stop("executed", f"{event} {shown}")

    def _inside(self, path: object) -> bool:
        if isinstance(path, int):  # a file that is open already
            return True
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        return os.path.realpath(text).startswith(self.folder + os.sep)


def _open_descriptors() -> int:
    with os.scandir("/proc/self/fd") as entries:
        return sum(1 for _ in entries)


def peak_memory() -> int:
    """The largest resident size of this process since it was last reset, in bytes."""
    # Not getrusage: its number begins with the size of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell how much memory a process had; Linux does")


def cap_memory(more: int) -> None:
    """Let no allocation of this process succeed once it has `more` bytes of address space than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
