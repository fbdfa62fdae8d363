"""Progress of commands on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segnets.console import escape_controls

if TYPE_CHECKING:
    from segnets.inference.job import Summary

_LOG_SECONDS = 30


class Progress:
    """Progress on stderr: a bar on a terminal, and a line every half minute in a log. Messages appear between them."""

    _BAR = "{percentage:3.0f}%|{bar}| {desc}, {rate_noinv_fmt}, {remaining} left"
    _BAR_WITHIN = "{percentage:3.0f}%|{bar}| {desc}, {remaining} left"

    def __init__(self) -> None:
        self.total = 0
        self._done = 0
        self._kept = 0
        self._within = ""
        self._bar: Any = None
        self._silent = sys.stderr is None  # closed
        self._terminal = not self._silent and sys.stderr.isatty()
        self._logged = time.monotonic()
        self._first: tuple[float, float] | None = None  # time of the first report, and the images done by then

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._show(lambda: self._bar.close())

    def step(self, summary: Summary) -> None:
        done = summary.images + summary.failed
        self.count(done, summary.kept if summary.kept == done else self._kept)  # kept images take no time

    def count(self, done: int, kept: int = 0) -> None:
        """Report the number of images done, and how many of them an earlier run had completed."""
        self._done, self._kept = done, kept
        within = self._within if self.total == 1 else ""
        self._show(lambda: self._report(within, 0.0))

    def part(self, done: int, total: int | None, name: str) -> None:
        self._within = f"{name} {done} of {total}" if total else f"{name} {done}"
        fraction = done / total if total and done < total else 0.0
        self._show(lambda: self._report(self._within, fraction))

    def tell(self, message: str) -> None:
        text = f"segnets: {escape_controls(message)}"
        self._show(lambda: self._opened().write(text, file=sys.stderr) if self._terminal else _log(text))

    def _show(self, action: Callable[[], None]) -> None:
        """Write to stderr. If its reader has gone, the command continues silently."""
        if self._silent:
            return
        try:
            action()
        except OSError:
            self._silent = True

    def _report(self, within: str, fraction: float) -> None:
        """Draw the bar, or log a line if the last one is old.

        Args:
            within: Position within the current video or large image, or "".
            fraction: Share of it that is done, 0..1.
        """
        if self._terminal:
            bar = self._opened()
            bar.initial = self._kept
            bar.bar_format = self._BAR_WITHIN if within else self._BAR
            bar.set_description_str(self._counted(within), refresh=False)
            bar.update(self._done + fraction - bar.n)
            return
        now, done = time.monotonic(), self._done + fraction
        if self._first is None:  # earlier work, such as listing a large folder, must not count towards the rate
            self._first = (now, done)
        if now - self._logged < _LOG_SECONDS:
            return
        self._logged = now
        parts, (started, before) = [self._counted(within)], self._first
        kept = max(0, self._kept - before)  # after the first report
        rate = (done - before - kept) / (now - started) if now > started else 0
        if rate > 0:
            parts += [] if within else [f"{rate:.2f} images/s"]
            parts.append(f"{timedelta(seconds=round((self.total - done) / rate))} left")
        _log(f"segnets: {', '.join(parts)}")

    def _counted(self, within: str) -> str:
        """Return the number of images done, or the position within a single large one."""
        if self.total == 1:
            return within or f"{self._done} of 1 image"
        return ", ".join([f"{self._done} of {self.total} images", *([within] if within else [])])

    def _opened(self) -> Any:
        """Return the bar, created at the first image."""
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=self.total,
                desc=self._counted(""),
                unit=" images",
                file=sys.stderr,
                mininterval=0.2,
                bar_format=self._BAR,
            )
        return self._bar


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
