"""Rings whose consumer gets the newest frame, and whose producer never waits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from segnets import FrameRing, FrameRingError
from tests.ring.common import PeerStarter, acquire_now, check, kill, next_now

SHAPE = (50_000,)  # large enough that an overwritten copy would be noticed


def put(ring: FrameRing, number: int) -> None:
    assert ring.put(np.full(ring.layout.shape, number, np.int64), 0, tag=3 * number)


@pytest.mark.parametrize("checksum", [False, True])
def test_the_newest_frame_arrives(checksum: bool, path: Path) -> None:
    with FrameRing.create(path, (5,), "int64", slots=3, latest=True, checksum=checksum) as producer:
        assert producer.layout.latest
        for number in range(1, 11):
            put(producer, number)  # without a consumer, and far beyond the slots
        with FrameRing.open(path) as consumer:
            assert (producer.waiting, consumer.waiting) == (10, 10)
            with next_now(consumer) as frame:
                assert (frame.sequence, frame.tag, frame.array.tolist()) == (10, 30, [10] * 5)
                for number in range(11, 18):  # the frame is a copy, so the producer may continue
                    put(producer, number)
                assert frame.tensor.tolist() == [10] * 5
            with next_now(consumer) as frame:
                check(frame)
                assert frame.sequence == 17
            assert consumer.next(0) is None  # no frame comes twice
            assert (producer.waiting, consumer.waiting) == (0, 0)
            slot = acquire_now(producer)
            slot.array[...] = -1  # half-filled: not published
            assert consumer.next(0) is None
    with FrameRing.open(path) as consumer, pytest.raises(FrameRingError, match="the producer closed the ring"):
        consumer.next(0)


def test_a_copy_that_was_overwritten_is_made_again(path: Path) -> None:
    with FrameRing.create(path, (5,), "int64", slots=3, latest=True) as producer, FrameRing.open(path) as consumer:
        put(producer, 1)
        offset, calls = consumer._side._offset, 0

        def overtake(sequence: int) -> int:
            nonlocal calls
            calls += 1
            if calls == 1:  # between the copy and the second look at the counter, as the offset is computed first
                put(producer, 2)
                put(producer, 3)
            return offset(sequence)

        consumer._side._offset = overtake  # type: ignore[method-assign]
        with next_now(consumer) as frame:
            assert (frame.sequence, calls) == (3, 2)
            check(frame)


def test_the_default_stays_lossless(path: Path) -> None:
    with FrameRing.create(path, (5,), "int64", slots=2) as producer:
        assert not producer.layout.latest
        put(producer, 1)
        put(producer, 2)
        assert producer.acquire(0) is None


def test_one_slot_is_refused(path: Path) -> None:
    with pytest.raises(FrameRingError, match="slots=1, expected at least 2 for a ring of the latest frame"):
        FrameRing.create(path, (5,), slots=1, latest=True)
    with pytest.raises(FrameRingError, match="latest=2, expected True or False"):
        FrameRing.create(path, (5,), latest=2)  # type: ignore[arg-type]


def test_both_languages_write_the_same_header(program: Path, tmp_path: Path) -> None:
    command = [str(program), "create", str(tmp_path / "cpp"), "producer", "5", "4", "3", "7x2"]
    subprocess.run(command, check=True, capture_output=True)
    FrameRing.create(tmp_path / "python", (7, 2), "int64", latest=True, checksum=True).close()
    assert (tmp_path / "cpp").read_bytes() == (tmp_path / "python").read_bytes()
    assert (tmp_path / "cpp").read_bytes()[176] == 3


def test_a_fast_cpp_producer_and_a_python_consumer(program: Path, path: Path) -> None:
    FrameRing.create(path, SHAPE, "int64", slots=3, latest=True, role="consumer").close()
    with subprocess.Popen([program, "write", path, "0"]) as process, FrameRing.open(path) as consumer:
        last = skipped = 0
        while last < 2000:
            frame = consumer.next(20)
            assert frame is not None
            with frame:
                check(frame)
                assert frame.sequence > last
                skipped += frame.sequence - last - 1
                last = frame.sequence
                np.sort(frame.array)  # slow
        process.kill()
    assert skipped > 0


def test_a_python_producer_and_a_cpp_consumer(program: Path, peers: PeerStarter, path: Path) -> None:
    FrameRing.create(path, (1000,), "int64", slots=2, latest=True, checksum=True, role="consumer").close()
    producer = peers.start("write", path)
    try:
        done = subprocess.run([program, "read", path, "300"], capture_output=True, text=True, timeout=60, check=False)
    finally:
        kill(producer)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.removeprefix("read up to ")) >= 300
