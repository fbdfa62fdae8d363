"""Kill either side at random points: no frame is torn, lost or duplicated, and the other side notices."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from segnets import FrameRing, PeerGoneError
from segnets.frame_ring._layout import HEADER_SIZE, PRODUCER_STATE, READ, SLOT_HEADER, WRITTEN
from tests.ring.common import PeerStarter, check, kill

ITEMS = 32768  # 256 KiB
ROUNDS = [pytest.param(15, id="some"), pytest.param(1000, id="many", marks=pytest.mark.full)]
LONGEST = 0.03  # seconds a peer lives at most


@contextlib.contextmanager
def peer(language: str, what: str, path: Path, program: Path, peers: PeerStarter) -> Iterator[None]:
    """Run a process that writes or reads without end, and kill it at the end of the block."""
    if language == "python":
        process = peers.start(what, path)
        yield
        kill(process)
    else:
        running = subprocess.Popen(
            [program, what, path, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        yield
        running.kill()
        out, err = running.communicate()
        assert (out, err) == ("", ""), "the peer ended before it was killed"


def count(path: Path, offset: int) -> int:
    """Return the current value of a counter in the ring's header."""
    with path.open("rb") as file:
        return int.from_bytes(os.pread(file.fileno(), 8, offset), "little")


def slot_is_torn(ring: FrameRing, sequence: int) -> bool:
    """Return whether a frame's slot was only partly filled when its producer died."""
    with ring.path.open("rb") as file:
        file.seek(HEADER_SIZE + (sequence - 1) % ring.layout.slots * ring.layout.slot_size + SLOT_HEADER)
        content = np.frombuffer(file.read(ring.layout.frame_size), np.int64)
    return bool(content.min() != content.max())


def end_of(step: Callable[[], object]) -> PeerGoneError:
    """Repeat `step` until it raises PeerGoneError, and return the error."""
    while True:
        try:
            step()
        except PeerGoneError as gone:
            return gone


@pytest.mark.parametrize("language", ["python", "c++"])
@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_killed_producer(language: str, rounds: int, program: Path, peers: PeerStarter, tmp_path: Path) -> None:
    randomly = random.Random(rounds)
    torn = last = 0
    with FrameRing.create(tmp_path / "ring", (ITEMS,), "int64", role="consumer", slots=3) as ring:

        def take(timeout: float) -> None:
            nonlocal last
            frame = ring.next(timeout)
            if frame is not None:
                with frame:
                    assert frame.sequence == last + 1
                    check(frame)
                last += 1

        for turn in range(rounds):
            before = last
            with peer(language, "write", ring.path, program, peers):
                end = time.monotonic() + randomly.uniform(0, LONGEST)
                # Wait for the first frame: a process that never opened the ring is not reported as dead.
                while time.monotonic() < end or (turn == 0 and last == 0):
                    with contextlib.suppress(PeerGoneError):  # the previous peer
                        take(0.001)
            gone = end_of(lambda: take(10))  # published frames come first
            assert "the producer died: its process ended without closing the ring" in str(gone)
            assert (gone.state, ring.peer, ring.waiting) == ("died", "died", 0)
            torn += last > before and slot_is_torn(ring, last + 1)
    assert last > rounds, "too few frames for a meaningful test"
    print(f"{torn} of {rounds} producers were killed while they filled a slot")
    assert torn > 0, "no producer was killed while it filled a slot, so the test shows little"


@pytest.mark.parametrize("language", ["python", "c++"])
@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_killed_producer_with_a_cpp_consumer(
    language: str, rounds: int, program: Path, peers: PeerStarter, tmp_path: Path
) -> None:
    randomly = random.Random(rounds)
    path, written = tmp_path / "ring", 0
    for _ in range(rounds):
        FrameRing.create(path, (ITEMS,), "int64", slots=3).close()
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), bytes(8), PRODUCER_STATE)  # as if no producer had opened the ring
        consumer = subprocess.Popen(
            [program, "read", path, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with peer(language, "write", path, program, peers):
            while count(path, PRODUCER_STATE) == 0:
                time.sleep(0.0002)
            time.sleep(randomly.uniform(0, LONGEST))
        assert consumer.communicate(timeout=60) == (f"died after {count(path, WRITTEN)}\n", "")
        assert count(path, READ) == count(path, WRITTEN)
        written += count(path, WRITTEN)
        path.unlink()
    assert written > rounds, "too few frames for a meaningful test"


@pytest.mark.parametrize("language", ["python", "c++"])
@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_killed_consumer(language: str, rounds: int, program: Path, peers: PeerStarter, tmp_path: Path) -> None:
    randomly = random.Random(rounds)
    with FrameRing.create(tmp_path / "ring", (ITEMS,), "int64", slots=3) as ring:

        def fill(timeout: float) -> None:
            slot = ring.acquire(timeout)
            if slot is not None:
                with slot:
                    slot.tag = 3 * slot.sequence
                    slot.array[...] = slot.sequence

        for turn in range(rounds):
            with peer(language, "read", ring.path, program, peers):
                end = time.monotonic() + randomly.uniform(0, LONGEST)
                while time.monotonic() < end or (turn == 0 and count(ring.path, READ) == 0):
                    with contextlib.suppress(PeerGoneError):  # the previous peer
                        fill(0.001)
            gone = end_of(lambda: fill(10))
            # A peer killed before it opened the ring leaves the state of the previous one, from this process below.
            assert gone.state == ring.peer == "died" or (gone.state == "closed" and turn > 0)
            done = count(ring.path, READ)
            with FrameRing.open(ring.path) as after:  # the next consumer gets the frame that it held
                frame = after.next(0)
                assert frame is not None
                assert frame.sequence == done + 1
                check(frame)
            assert (count(ring.path, READ), ring.waiting) == (done, 3)
        assert count(ring.path, READ) > rounds, "too few frames for a meaningful test"
