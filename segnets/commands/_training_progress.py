"""Progress of `segnets train` on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segnets.console import escape_controls

if TYPE_CHECKING:
    from segnets.training.progress import StepReport

_LOG_SECONDS = 30
_MUCH_WAITING = 0.05  # share of a step's time
_SMOOTHING = 0.05  # weight of a new loss in the shown average


class TrainingProgress:
    """Progress bar on a terminal, or a line every half minute in a log. Messages appear between them."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent or sys.stderr is None
        self._terminal = not self._silent and sys.stderr.isatty()
        self._bar: Any = None
        self._loss: float | None = None
        self._first: tuple[int, float] | None = None  # step and time of the first report
        self._logged = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bar, so that other output begins on a new line."""
        if self._bar is None:
            return
        with contextlib.suppress(OSError):
            self._bar.close()
        self._bar = None

    def tell(self, message: str) -> None:
        """Print a message."""
        line = message.replace("\n", "\\n")  # the name of a file may contain line feeds
        text = f"segnets: {escape_controls(line)}"
        if self._silent:
            return
        try:
            if self._bar is not None:
                self._bar.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)
        except OSError:  # the training continues if the reader of stderr has gone
            self._silent = True

    def step(self, report: StepReport) -> None:
        """Show a completed step."""
        old = self._loss
        self._loss = report.loss if old is None else old + _SMOOTHING * (report.loss - old)
        if self._silent:
            return
        now = time.monotonic()
        if self._first is None:
            self._first = (report.step, now)
        if self._terminal:
            self._draw(report)
        elif now - self._logged >= _LOG_SECONDS:
            self._logged = now
            self.tell(self._line(report, now))

    def _describe(self, report: StepReport) -> str:
        return f"epoch {report.epoch} of {report.epochs}, loss {self._loss:.4f}"

    def _line(self, report: StepReport, now: float) -> str:
        assert self._first is not None
        step, started = self._first
        rate = (report.step - step) / max(1e-9, now - started)
        parts = [f"step {report.step} of {report.steps}", self._describe(report)]
        if rate:
            left = timedelta(seconds=round((report.steps - report.step) / rate))
            parts += [f"{rate * report.images:.1f} images/s", f"{left} left"]
        if report.waiting >= _MUCH_WAITING:
            parts.append(f"{100 * report.waiting:.0f} % of the time waiting for data (--workers)")
        return ", ".join(parts)

    def _draw(self, report: StepReport) -> None:
        from tqdm import tqdm

        try:
            if self._bar is None:
                self._bar = tqdm(
                    total=report.steps * report.images,
                    initial=(report.step - 1) * report.images,
                    unit=" images",
                    file=sys.stderr,
                    mininterval=0.2,
                    bar_format="{percentage:3.0f}%|{bar}| {desc}, {rate_noinv_fmt}, {remaining} left",
                )
            waiting = f", {100 * report.waiting:.0f} % waiting for data" if report.waiting >= _MUCH_WAITING else ""
            self._bar.set_description_str(self._describe(report) + waiting, refresh=False)
            self._bar.update(report.step * report.images - self._bar.n)
        except OSError:
            self._silent = True
