"""Read files and check every promise: time, memory, forbidden actions, messages, and what reading leaves behind.

Time is CPU time of this process, so that other programs don't disturb it; a clock catches waits that never end. Memory
is the largest resident size, compared with the size after every seed was read once, so that slow leaks show too. An
audit hook stops a forbidden action before it happens.
"""

from __future__ import annotations

import ast
import encodings.aliases
import faulthandler
import os
import resource
import signal
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fuzz.reading import Outcome
from tests.fuzz.seeds import INPUT, companions
from weights_tools.reader.identify import HEAD_BYTES, identify

Reading = Callable[[Path, int], Outcome]
LIMITS = (5.0, 60.0, 512 << 20)  # of reading one file: CPU seconds, seconds by the clock, bytes of memory
_HANG = 180.0  # seconds after which the process ends, if code hangs that no signal reaches
_CHARACTERS, _LINES = 8000, 60  # of a message, at most
_FORBIDDEN = (
    "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.kill", "os.symlink", "os.chown",
    "os.putenv", "os.unsetenv", "os.startfile", "pty.", "subprocess.", "socket.", "ctypes.dlopen", "pickle.", "exec",
    "compile", "import", "marshal.load", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "code.__new__",
)  # fmt: skip
_ON_PATHS = ("os.mkdir", "os.link", "os.rmdir", "os.remove", "os.rename", "os.truncate", "os.chmod", "shutil.")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FASTEST_FILLING = 25e9  # bytes per second, faster than memory can be allocated and written


class BrokenPromiseError(BaseException):
    """A promise that the reader broke; `kind` names it in a word. `except Exception` in the reader can't swallow it."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Target:
    """A folder in which files are read one after the other. Audit hooks stay, so a process has one target only."""

    def __init__(self, folder: Path, reading: Reading, limits: tuple[float, float, int] = LIMITS) -> None:
        self.path, self._read, (self._seconds, self._clock, self._memory) = folder.resolve() / INPUT, reading, limits
        for name, data in companions().items():
            self.path.with_name(name).write_bytes(data)
        self.counts: dict[str, Any] = {"executions": 0, "slowest": 0.0, "peak": 0, "reached": Counter[str]()}
        self._active = False
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGPROF, self._interrupt)
        signal.signal(signal.SIGALRM, self._interrupt)

    def warm_up(self, files: Sequence[bytes]) -> None:
        """Read files once on every path, so that imports and caches are not taken for effects of later files."""
        for name in {*encodings.aliases.aliases.values(), "unicode_escape", "raw_unicode_escape", "utf_8_sig"}:
            with suppress(LookupError):  # the codecs of another system
                "".encode(name)
        for data in files:
            self.path.write_bytes(data)
            for choice in (0, 1, 2, 3, 18):
                self._read(self.path, choice)
        self._settle()

    def _settle(self) -> None:
        """Take the memory, threads and descriptors of this moment as the baseline."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets the largest resident size
        self._base = _peak_memory()
        self._open = _threads_and_descriptors()

    def execute(self, data: bytes) -> None:
        """Read a file. Raises BrokenPromiseError if a promise was broken."""
        self.path.write_bytes(data)
        before = time.process_time()
        faulthandler.dump_traceback_later(_HANG, exit=True)
        signal.setitimer(signal.ITIMER_PROF, self._seconds)
        signal.setitimer(signal.ITIMER_REAL, self._clock)
        self._active = True
        try:
            outcome = self._read(self.path, zlib.crc32(data))
        except Exception as error:
            raise BrokenPromiseError("escaped", f"{type(error).__name__}: {str(error)[:300]}") from error
        finally:
            self._active = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            seconds = time.process_time() - before
            self.counts["executions"] += 1
            self.counts["slowest"] = max(self.counts["slowest"], seconds)
        self._check_resources(seconds)
        for text in outcome.messages:
            lines = text.split("\n")
            if not text or len(text) > _CHARACTERS or len(lines) > _LINES:
                raise BrokenPromiseError("message", f"{len(lines)} lines and {len(text)} characters: {text[:200]!r}")
            if not all(line.isprintable() for line in lines):
                raise BrokenPromiseError("message", f"not printable: {text[:4000]!r}")
        if left := [path for path in self.path.parent.iterdir() if path.name not in {INPUT, *companions()}]:
            for path in left:
                path.unlink()
            raise BrokenPromiseError("left behind", ", ".join(path.name for path in left))
        kind = identify(data[:HEAD_BYTES], len(data))
        kind = kind if kind in ("zip", "legacy", "safetensors", "pickle", "index") else "other"
        kind = "TorchScript" if kind == "zip" and b"/constants.pkl" in data else kind
        self.counts["reached"][f"{kind} {outcome.stage}"] += 1

    def _check_resources(self, seconds: float) -> None:
        # Asking takes as long as reading a small file: ask only after executions long enough to fill the memory.
        if seconds > self._memory / _FASTEST_FILLING or self.counts["executions"] % 256 == 0:
            used = _peak_memory() - self._base
            self.counts["peak"] = max(self.counts["peak"], used)
            if used > self._memory:
                self._settle()
                raise BrokenPromiseError("memory", f"{used >> 20} MiB more than after the seeds")
        if (found := _threads_and_descriptors()) != self._open:
            self._settle()
            raise BrokenPromiseError("left open", f"{found[0]} threads and {found[1]} file descriptors")

    def _interrupt(self, number: int, _frame: object) -> None:
        if self._active:
            raise BrokenPromiseError("hang", "too much CPU time" if number == signal.SIGPROF else "waited too long")

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
            raise BrokenPromiseError("executed", f"{event} {[str(arg)[:200] for arg in args[:3]]}")

    def _inside(self, path: object) -> bool:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else "/"
        return isinstance(path, int) or self.path.parent in Path(text).resolve().parents  # a number: an open file


def _threads_and_descriptors() -> tuple[int, int]:
    with os.scandir("/proc/self/fd") as entries:
        return threading.active_count(), sum(1 for _ in entries)


def _peak_memory() -> int:
    """Return the largest resident size of this process since it was last reset, in bytes."""
    # resource.getrusage starts with the size of the parent process.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def cap_memory(more: int) -> None:
    """Limit the address space of this process to `more` bytes beyond its present size."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
