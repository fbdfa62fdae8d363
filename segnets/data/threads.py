"""Threads that read from servers and disks.

At its end, the process waits for the threads of `concurrent.futures`. After Ctrl-C, that takes minutes if a server
doesn't answer. It doesn't wait for these.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
_S = TypeVar("_S")


class Readers:
    """Threads that call functions, to be closed by `with`. What was not begun by then is dropped.

    Args:
        count: Number of threads.
    """

    def __init__(self, count: int) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[Any], Any], object] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=_run, args=(self._work,), name="segnets-data", daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[_S], _T], item: _S) -> Future[_T]:
        """Call a function of one argument in a thread."""
        future: Future[_T] = Future()
        self._work.put((future, function, item))
        return future

    def map(self, function: Callable[[_S], _T], items: Iterable[_S]) -> Iterator[_T]:
        """Yield the results of a function, in the order of its arguments."""
        futures = deque(self.submit(function, item) for item in items)
        while futures:
            yield futures.popleft().result()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            while True:
                self._work.get_nowait()
        except Empty:
            pass
        for _thread in self._threads:
            self._work.put(None)
        if error is None:  # the process may be forked next
            for thread in self._threads:
                thread.join()


def _run(work: SimpleQueue[tuple[Future[Any], Callable[[Any], Any], object] | None]) -> None:
    while (task := work.get()) is not None:
        future, function, item = task
        try:
            result = function(item)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
            del result
        del task, future  # results may be large, and the next task may be long in coming
