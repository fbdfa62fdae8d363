"""A progress bar for one download, on stderr. Plain ASCII and no colour: any terminal and any log can show it."""

from __future__ import annotations

import contextlib
import os
import sys
import time

_REDRAW = 0.1  # seconds
_CELLS = 24
_LINES = 10  # how often a log hears of it, instead of a bar that moves


class Bar:
    """shown: True or False, or None for "if stderr is a terminal". A stderr that can't be written to is no error."""

    def __init__(self, title: str, shown: bool | None) -> None:
        stream = sys.stderr  # None in a process that was started with it closed
        self._moves = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self._stream = stream if shown or (shown is None and self._moves) else None
        self._title = title
        self._total: int | None = None
        self._done = self._begun_at = self._told = 0
        self._begun = self._drawn = time.monotonic()
        self._open = False

    def start(self, done: int, total: int | None) -> None:
        """`done` of `total` bytes are there already; total is None if nobody knows it."""
        self._total = total
        self._done = self._begun_at = done
        self._told = done * _LINES // total if total else 0
        self._begun = time.monotonic()

    def show(self, done: int) -> None:
        """`done` bytes are there now."""
        self._done = done
        if self._stream is None:
            return
        if self._moves:
            now = time.monotonic()
            if now - self._drawn >= _REDRAW:
                self._drawn = now
                self._draw()
        elif self._total and (lines := done * _LINES // self._total) > self._told:
            self._told = lines
            self._write(f"{self._text()}\n")

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        self.close()
        self._write(f"{text}\n")

    def close(self) -> None:
        """Leave the last state on the screen and go to the next line."""
        if self._moves and self._open:
            self._draw()
            self._write("\n")
            self._open = False

    def _draw(self) -> None:
        width = self._columns() - 1
        self._write(f"\r{self._text()[:width]:<{width}}")
        self._open = True

    def _columns(self) -> int:
        columns = 0  # as some terminals say, too
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                columns = os.get_terminal_size(self._stream.fileno()).columns
        return max(columns or 80, 10)

    def _text(self) -> str:
        seconds = time.monotonic() - self._begun
        speed = (self._done - self._begun_at) / seconds if seconds > 0 else 0.0
        rate = f"{speed / 1e6:.1f} MB/s"
        if not self._total:
            return f"{self._title} {self._done / 1e6:.1f} MB  {rate}"
        part = min(self._done / self._total, 1.0)
        left = f"  {_clock((self._total - self._done) / speed)} left" if speed > 0 and part < 1 else ""
        cells = f"[{'#' * int(part * _CELLS):.<{_CELLS}}]"
        amount = f"{self._done / 1e6:.1f}/{self._total / 1e6:.1f} MB"
        return f"{self._title} {cells} {int(part * 100):3}%  {amount}  {rate}{left}"

    def _write(self, text: str) -> None:
        if self._stream is not None:
            # Whoever closed the window still wants the file.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(min(seconds, 359_999)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
