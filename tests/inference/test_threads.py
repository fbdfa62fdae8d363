"""Work is shared between threads that use one core each, and the process's threads stay as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from segnets.inference import _threads


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr(_threads, "_THREADS", _threads._Threads())
    yield request.param
    torch.set_num_threads(before)


def test_every_piece_is_done_once_by_threads_of_one_core(threads: int) -> None:
    done: list[tuple[int, str, int]] = []
    # So that no thread can take all pieces.
    together = threading.Barrier(threads)

    def work(piece: int) -> None:
        if piece < threads:
            together.wait(10)
        done.append((piece, threading.current_thread().name, torch.get_num_threads()))

    _threads.share(work, range(20))
    assert sorted(piece for piece, _, _ in done) == list(range(20))
    assert len({name for _, name, _ in done}) == threads
    assert {count for _, _, count in done} == {1}
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as pool:  # a thread that the caller starts later
        assert pool.submit(torch.get_num_threads).result() == threads


def test_an_error_is_raised_and_ends_the_work(threads: int) -> None:
    done = []

    def work(piece: int) -> None:
        done.append(piece)
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 0"):
        _threads.share(work, range(100))
    assert len(done) <= threads
    _threads.share(done.append, [])


def test_more_threads_are_started_when_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = _threads._Threads()
    first = pools.at_least(2)
    assert pools.at_least(1) is first
    second = pools.at_least(3)
    assert second is not first
    assert first.submit(torch.get_num_threads).result() == 1  # for calls that still use it
    monkeypatch.setattr(pools, "_process", -1)  # as after a fork
    assert pools.at_least(2) not in (first, second)
