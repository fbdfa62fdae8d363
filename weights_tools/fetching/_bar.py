"""Progress of one download on stderr, drawn by tqdm in plain ASCII."""

from __future__ import annotations

import contextlib
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_REDRAW = 0.1  # seconds between two updates on a terminal
_LOG_LINE = 10.0  # seconds between two updates in a log


class Bar:
    """Progress bar of one download. Write errors on stderr are ignored, because they must not stop the download.

    Args:
        title: Text in front of the bar.
        enabled: Whether to show the bar. None shows it if stderr is a terminal.
    """

    def __init__(self, title: str, enabled: bool | None) -> None:
        stream = sys.stderr  # None in a process started with stderr closed
        terminal = stream is not None and stream.isatty()
        self._title = title
        self._stream = _Forgiving(stream) if stream is not None and (terminal if enabled is None else enabled) else None
        self._interval = _REDRAW if terminal else _LOG_LINE
        self._bar: tqdm[Any] | None = None

    def start(self, done: int, total: int | None) -> None:
        """Open the bar at `done` of `total` bytes; None for an unknown total."""
        self.close()
        if self._stream is not None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._title,
                initial=done,
                total=total,
                unit="B",
                unit_scale=True,
                ascii=True,
                mininterval=self._interval,
                file=self._stream,
            )

    def show(self, done: int) -> None:
        """Move the bar to `done` bytes."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def note(self, text: str) -> None:
        """Write a message on its own line and close the bar."""
        self.close()
        if self._stream is not None:
            self._stream.write(f"{text}\n")

    def close(self) -> None:
        """Leave the last state on the screen and go to the next line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Forgiving:
    """Text stream that ignores write errors, for example after its terminal was closed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()

    def flush(self) -> None:
        pass  # `write` flushes
