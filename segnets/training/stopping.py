"""Ctrl-C and SIGTERM during a training: finish the step, save, and say how to resume."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.made = False

    def __bool__(self) -> bool:
        return self.made

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        if self.made:
            raise KeyboardInterrupt("interrupted twice; the last checkpoint stays as it was")
        self.made = True


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first Ctrl-C or SIGTERM inside instead of raising it; the second one raises KeyboardInterrupt.

    Outside of the main thread, which alone may set handlers, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as in the background of a script
            signal.signal(number, request._note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def ignore_stops(_worker: int = 0) -> None:
    """Ignore Ctrl-C and SIGTERM in a process that loads data: the training decides when to end it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
