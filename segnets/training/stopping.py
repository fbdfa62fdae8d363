"""Handling of Ctrl-C and SIGTERM during training: finish the step, save, and explain how to resume."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Flag that is set when this process is asked to stop."""

    def __init__(self) -> None:
        self.made = False

    def __bool__(self) -> bool:
        return self.made

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt("interrupted twice; the last checkpoint is unchanged")
        self.made = True


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record the first Ctrl-C or SIGTERM in the block instead of raising it. The second raises KeyboardInterrupt.

    Outside the main thread, which alone may set handlers, signals are handled as before.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as for background jobs of a script
            signal.signal(number, request._note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def ignore_stops(_worker: int = 0) -> None:
    """Ignore Ctrl-C and SIGTERM in a data loading process. The training process ends it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
