"""Threads that don't delay the end of the process."""

from __future__ import annotations

import threading

import pytest

from segnets.data.threads import Readers


def test_results_come_in_order_and_errors_are_raised() -> None:
    with Readers(3) as readers:
        assert list(readers.map(lambda x: 12 // x, [1, 2, 3, 4])) == [12, 6, 4, 3]
        with pytest.raises(ZeroDivisionError):
            list(readers.map(lambda x: 12 // x, [1, 0, 3]))
    assert not [each for each in threading.enumerate() if each.name == "segnets-data"]


def test_a_thread_that_waits_for_a_server_is_left_behind() -> None:
    began, released, done = threading.Event(), threading.Event(), list[int]()

    def read(number: int) -> None:
        began.set()
        assert released.wait(10)
        done.append(number)

    def interrupt() -> None:
        with Readers(1) as readers:
            readers.submit(read, 1)
            readers.submit(read, 2)
            assert began.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    (thread,) = [each for each in threading.enumerate() if each.name == "segnets-data"]
    assert thread.daemon
    released.set()
    thread.join(10)
    assert done == [1]
