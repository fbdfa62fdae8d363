"""Ctrl-C while the interpreter imports modules.

Importing torch takes a second or more. An exception in the middle of that shows a traceback, or is swallowed by the
import. Nothing has to be cleaned up yet, so the process ends at once. Imports nothing large.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # as shells report a process that SIGINT ended


def exit_at_once(program: str) -> None:
    """Make Ctrl-C end this process with one line on stderr, except inside `raised`.

    A process that ignores Ctrl-C, as in the background of a script, still ignores it.

    Args:
        program: Name of the program, the prefix of the message.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # a closed stderr
            os.write(2, f"{program}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C inside, if `exit_at_once` was called before."""
    before = signal.getsignal(signal.SIGINT)
    if getattr(before, "__module__", None) != __name__:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
