"""Calls of one side of a ring in Python, and their errors."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from segnets import FrameRing, FrameRingError
from segnets.frame_ring._layout import HEADER_SIZE, SLOT_HEADER
from tests.ring.common import acquire_now, next_now

SHAPE = (3, 4)


@pytest.mark.parametrize("strides", [None, (40, 8), (8, 32), (64, 16)], ids=["plain", "rows", "columns", "gaps"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64"])
def test_frames_arrive_in_order_and_complete(dtype: str, strides: tuple[int, ...] | None, path: Path) -> None:
    values = (np.arange(7 * 12).reshape(7, *SHAPE) % 100).astype(dtype)
    torch_dtype = getattr(torch, dtype)
    with (
        FrameRing.create(path, SHAPE, torch_dtype, slots=3, strides=strides, checksum=True) as producer,
        FrameRing.open(path) as consumer,
    ):
        for i, value in enumerate(values):
            before = time.monotonic_ns()
            assert producer.put(value, 0, tag=2**64 - 1 - i)
            with next_now(consumer) as frame:
                assert (frame.sequence, frame.tag) == (i + 1, 2**64 - 1 - i)
                assert before <= frame.timestamp <= time.monotonic_ns()
                assert np.array_equal(frame.array, value)
                assert (frame.array.dtype, frame.array.strides) == (values.dtype, consumer.layout.strides)
                assert torch.equal(frame.tensor, torch.from_numpy(value))
                assert frame.tensor.dtype == torch_dtype
        assert consumer.next(0) is None


def test_nothing_is_copied(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer, FrameRing.open(path) as consumer:
        slot = acquire_now(producer)
        slot.tensor[...] = 7
        assert slot.array.tolist() == np.full(SHAPE, 7).tolist()
        slot.publish()
        frame = next_now(consumer)
        array, tensor = frame.array, frame.tensor
        assert array.ctypes.data == tensor.data_ptr()
        assert array.ctypes.data % 64 == 0
        with path.open("r+b") as file:  # write to the same memory through the file
            os.pwrite(file.fileno(), b"\x2a", HEADER_SIZE + SLOT_HEADER + 5)
        assert array[1, 1] == tensor[1, 1] == 42
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_a_full_ring_waits_or_drops(path: Path) -> None:
    with FrameRing.create(path, SHAPE, slots=2) as producer, FrameRing.open(path) as consumer:
        assert [producer.put(np.full(SHAPE, i, np.uint8), 0) for i in range(3)] == [True, True, False]
        assert producer.waiting == consumer.waiting == 2
        start = time.monotonic()
        assert producer.acquire(0.05) is None
        assert time.monotonic() - start >= 0.05
        frame = next_now(consumer)
        assert producer.acquire(0) is None  # the frame is not released yet
        frame.release()
        assert acquire_now(producer).sequence == 3


def test_a_wait_ends_when_a_frame_or_slot_is_available(path: Path) -> None:
    with FrameRing.create(path, SHAPE, slots=1) as producer, FrameRing.open(path) as consumer:
        later = threading.Timer(0.05, lambda: producer.put(np.zeros(SHAPE, np.uint8)))
        later.start()
        frame = consumer.next(60)
        later.join()
        assert frame is not None
        later = threading.Timer(0.05, frame.release)
        later.start()
        assert producer.acquire(60) is not None
        later.join()


def test_a_published_slot_is_not_writable(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer:
        slot = acquire_now(producer)
        kept = slot.array
        slot.publish()
        with pytest.raises(ValueError, match="read-only"):
            kept[...] = 1
        with pytest.raises(FrameRingError, match="slot 1 was published or cancelled; acquire"):
            slot.publish()
        with pytest.raises(FrameRingError, match="slot 1 was published or cancelled; acquire"):
            _ = slot.array
        slot.cancel()  # no error, because `with` may cancel a slot again


def test_a_slot_is_reused_after_an_exception(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer:
        slot = acquire_now(producer)
        assert producer.acquire(0) is slot
        with pytest.raises(ZeroDivisionError), slot:
            slot.array[...] = 1 // 0
        assert producer.waiting == 0
        again = acquire_now(producer)
        assert again is not slot
        assert again.sequence == 1
        again.tag = -1
        with pytest.raises(FrameRingError, match=r"tag=-1: expected whole numbers, 0\.\.2\*\*64-1"):
            again.publish()
        again.tag, again.timestamp = 5, 12
        again.publish()
        with FrameRing.open(path) as consumer, next_now(consumer) as frame:
            assert (frame.tag, frame.timestamp) == (5, 12)


def test_a_released_frame_is_not_readable(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer, FrameRing.open(path) as consumer:
        producer.put(np.zeros(SHAPE, np.uint8))
        frame = next_now(consumer)
        with pytest.raises(FrameRingError, match=r"next\(\) before frame 1 was released"):
            consumer.next(0)
        frame.release()
        for use in (lambda: frame.array, lambda: frame.tensor, frame.release):
            with pytest.raises(FrameRingError, match="frame 1 was released; copy it before the release"):
                use()


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (
            0,
            r"frame 1 is damaged \(its slot has sequence 43\): another process is writing to the ring; the frame was",
        ),
        (24, r"frame 1 is damaged \(wrong checksum\)"),
        (SLOT_HEADER + 11, r"frame 1 is damaged \(wrong checksum\)"),
    ],
)
def test_a_damaged_frame_is_skipped(offset: int, message: str, path: Path) -> None:
    with FrameRing.create(path, SHAPE, checksum=True) as producer, FrameRing.open(path) as consumer:
        for i in range(2):
            producer.put(np.full(SHAPE, i, np.uint8))
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), b"\x2b", HEADER_SIZE + offset)
        with pytest.raises(FrameRingError, match=message):
            consumer.next(0)
        with next_now(consumer) as frame:
            assert (frame.sequence, frame.array[0, 0]) == (2, 1)


def test_invalid_counters(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer, FrameRing.open(path) as consumer:
        for offset, call in ((256, consumer.next), (320, producer.acquire)):
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), b"\x63", offset)
            with pytest.raises(
                FrameRingError, match=r"its counters are invalid \(\d+ frames written and \d+ read, with 4 slots\)"
            ):
                call(0)


def test_invalid_calls(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer, FrameRing.open(path) as consumer:
        wrong: list[tuple[Callable[[], object], str]] = [
            (lambda: producer.next(0), r"next\(\) is for the consumer only"),
            (lambda: consumer.acquire(0), r"acquire\(\) is for the producer only"),
            (
                lambda: producer.put(np.zeros((4, 3), np.uint8)),
                r"a frame of uint8 \(4, 3\), expected uint8 \(3, 4\)",
            ),
            (lambda: producer.put(np.zeros(SHAPE)), r"a frame of float64 \(3, 4\), expected uint8 \(3, 4\)"),
            (lambda: FrameRing.open(path, "reader"), "role='reader', expected 'producer' or 'consumer'"),  # type: ignore[arg-type]
        ]
        for call, message in wrong:
            with pytest.raises(FrameRingError, match=message):
                call()
        slot, waiting = acquire_now(producer), producer.waiting
        assert waiting == 0
    for call in (
        lambda: producer.acquire(0),
        lambda: consumer.next(0),
        lambda: producer.peer,
        lambda: consumer.waiting,
    ):
        with pytest.raises(FrameRingError, match=r"after close\(\); open the ring again"):
            call()
    with pytest.raises(FrameRingError, match="slot 1 was published or cancelled"):
        slot.publish()


def test_numpy_numbers_are_accepted(path: Path) -> None:
    ring = FrameRing.create(path, np.array([2, 3]), slots=np.int64(2), checksum=np.bool_(True))  # type: ignore[arg-type]
    assert (ring.layout.slots, ring.layout.checksum) == (2, True)
    with FrameRing.open(path) as consumer:
        assert consumer.next(np.float32(0.001)) is None  # type: ignore[arg-type]
    ring.close()
    path.unlink()
    with pytest.raises(FrameRingError, match="checksum='no', expected True or False"):
        FrameRing.create(path, (2, 3), checksum="no")  # type: ignore[arg-type]
