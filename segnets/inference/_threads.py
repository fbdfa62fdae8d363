"""Thread pool whose threads each compute on one core.

torch shares every operation between its threads, and waits for the last one at the end of each. If other programs use
the cores too, each wait lasts until the scheduler's next time slice, and hundreds of short operations take seconds.
Threads that share nothing until the end don't wait.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_P = TypeVar("_P")


def share(function: Callable[[_P], None], pieces: Iterable[_P]) -> None:
    """Call a function on each piece of work, in as many threads as torch uses for an operation.

    Args:
        function: Function to call, in any thread and order; its torch operations use one core there.
        pieces: Arguments of the calls.

    Raises:
        Exception: The first error of a call. Pieces that have not started by then are skipped.
    """
    left = deque(pieces)

    def work() -> None:
        try:
            while left:
                try:
                    piece = left.popleft()
                except IndexError:  # another thread was faster
                    return
                function(piece)
        except BaseException:
            left.clear()
            raise

    count = min(torch.get_num_threads(), len(left))
    if count < 2:
        work()
        return
    running = [_THREADS.at_least(count).submit(work) for _ in range(count)]
    for each in running:
        each.result()


class _Threads:
    """Pool of threads that live as long as the process. It grows to the largest number requested."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._pool, self._count, self._process = ThreadPoolExecutor(1), 0, os.getpid()

    def at_least(self, count: int) -> ThreadPoolExecutor:
        """Return a pool with at least this many threads."""
        with self._lock:
            if self._process != os.getpid():  # a fork copies no threads
                self._forget()
            if self._count < count:
                # A replaced pool ends with the last call that uses it.
                self._pool, self._count = _started(count), count
            return self._pool


def _started(count: int) -> ThreadPoolExecutor:
    """Start threads in which torch uses one core each."""
    usual = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "segnets-maps", _use_one_core)
    everybody = threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(everybody.wait)
    everybody.wait()
    # Each thread has its own setting, but a call also sets the default of threads that start later: restore it.
    torch.set_num_threads(usual)
    return pool


def _use_one_core() -> None:
    # The first query copies the process's setting to the thread, so it must come before the thread's own setting.
    torch.get_num_threads()
    torch.set_num_threads(1)


_THREADS = _Threads()
