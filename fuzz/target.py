"""One execution: bytes become a file, it is read in every way, every promise is checked. Raises BrokenPromiseError."""

from __future__ import annotations

import codecs
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.promises import BrokenPromiseError, Limits, Watch
from fuzz.reading import Outcome, read
from fuzz.seeds import INPUT, beside
from weights_tools.reader.identify import HEAD_BYTES, identify

Reading = Callable[[Path, int], Outcome]
_MOST_MESSAGES = 5000
# Python imports a codec where it is first used; json looks for UTF-16 and UTF-32 by itself.
_CODECS = (
    "unicode_escape", "raw_unicode_escape", "cp437", "utf-8-sig",
    "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be",
)  # fmt: skip


@dataclass
class Tally:
    """What was counted. reached: container and stage. messages: with their numbers and names taken out."""

    executions: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    peak: int = 0
    reached: Counter[tuple[str, str]] = field(default_factory=Counter)
    messages: set[str] = field(default_factory=set)


class Target:
    """Executes files one after the other in a folder of its own."""

    def __init__(self, folder: Path, limits: Limits | None = None, reading: Reading = read) -> None:
        self.path = folder / INPUT
        for name, data in beside().items():
            self.path.with_name(name).write_bytes(data)
        self._known = {INPUT, *beside()}
        self.tally = Tally()
        self._watch = Watch(folder, limits or Limits())
        self._limits = self._watch.limits
        self._reading = reading

    def warm_up(self, files: Sequence[bytes]) -> None:
        """Read files that are known to be good, so that everything that is imported late is imported."""
        for name in _CODECS:
            codecs.lookup(name)
        for data in files:
            self.path.write_bytes(data)
            for choice in (0, 1, 2, 3, 18):
                self._reading(self.path, choice)
        self._watch.settle()

    def execute(self, data: bytes) -> Outcome:
        """Read these bytes. Raises BrokenPromiseError if a promise was not kept."""
        self.path.write_bytes(data)
        choice = zlib.crc32(data)
        before, clock = time.process_time(), time.perf_counter()
        try:
            with self._watch.execution():
                outcome = self._reading(self.path, choice)
        except BrokenPromiseError:
            raise
        except Exception as error:
            raise BrokenPromiseError("escaped", f"{type(error).__name__}: {str(error)[:300]}") from error
        finally:
            self._count(time.process_time() - before, time.perf_counter() - clock)
        self._check_said(outcome)
        left = [item.name for item in self.path.parent.iterdir() if item.name not in self._known]
        if left:
            for name in left:
                self.path.with_name(name).unlink()
            raise BrokenPromiseError("left behind", ", ".join(left))
        self.tally.reached[container_of(data), outcome.stage] += 1
        if len(self.tally.messages) < _MOST_MESSAGES:
            self.tally.messages.update(_gist(text) for text in outcome.said if not text.startswith("file "))
        return outcome

    def _count(self, busy: float, clock: float) -> None:
        tally = self.tally
        tally.executions += 1
        tally.seconds += clock
        tally.slowest = max(tally.slowest, busy)
        tally.peak = max(tally.peak, self._watch.peak)

    def _check_said(self, outcome: Outcome) -> None:
        for text in outcome.said:
            lines = text.split("\n")
            if not text or len(text) > self._limits.message or len(lines) > self._limits.lines:
                raise BrokenPromiseError("message", f"{len(lines)} lines and {len(text)} characters: {text[:200]!r}")
            if not all(line.isprintable() for line in lines):
                raise BrokenPromiseError("message", f"not printable: {text[:4000]!r}")


def container_of(data: bytes) -> str:
    """What kind of file these bytes are or were, as far as their beginning tells."""
    kind = identify(data[:HEAD_BYTES], len(data))
    if kind == "zip" and b"/constants.pkl" in data:
        return "TorchScript"
    return kind if kind in ("zip", "legacy", "safetensors", "pickle", "index") else "other"


def _gist(message: str) -> str:
    """A message without its names and numbers."""
    return re.sub(r"\d[\d,.e+]*", "N", re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", message[:400]))[:200]
