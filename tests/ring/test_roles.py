"""Creating and opening rings, roles, and the state of the peer, in Python."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segnets import FrameRing, FrameRingError, OutputError, PeerGoneError
from segnets.frame_ring._side import Side
from tests.ring.common import acquire_now, next_now

SHAPE = (3, 4)


def test_each_role_once(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer:
        with pytest.raises(FrameRingError, match="already has a producer, and a ring has only one; close that one"):
            FrameRing.open(path, "producer")
        with FrameRing.open(path), pytest.raises(FrameRingError, match="already has a consumer"):
            FrameRing.open(path)
        producer.close()
        FrameRing.open(path, "producer").close()


def peer_of(ring: FrameRing) -> str:
    """Read `ring.peer`; mypy would take it for unchanged after a comparison."""
    return ring.peer


def test_peers(path: Path) -> None:
    producer = FrameRing.create(path, SHAPE)
    assert peer_of(producer) == "never came"
    consumer = FrameRing.open(path)
    assert (peer_of(producer), peer_of(consumer)) == ("alive", "alive")
    consumer.close()
    assert peer_of(producer) == "closed"
    with pytest.raises(ZeroDivisionError), FrameRing.open(path):
        _ = 1 // 0
    assert peer_of(producer) == "died"  # it ended without closing the ring
    consumer = FrameRing.open(path)
    assert peer_of(producer) == "alive"
    del consumer
    gc.collect()
    assert peer_of(producer) == "died"
    producer.close()
    producer.close()
    with FrameRing.open(path) as consumer:
        assert consumer.peer == "closed"


def test_remaining_frames_come_before_peer_gone_error(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer:
        for i in range(3):
            producer.put(np.full(SHAPE, i, np.uint8))
    with FrameRing.open(path) as consumer:
        assert [(frame.sequence, frame.array[0, 0]) for frame in consumer] == [(1, 0), (2, 1), (3, 2)]
        with pytest.raises(PeerGoneError, match="ring: the producer closed the ring") as gone:
            consumer.next(60)
        assert gone.value.state == "closed"
        # Another producer continues the sequence.
        producer = FrameRing.open(path, "producer")
        producer.put(np.full(SHAPE, 3, np.uint8))
        del producer
        gc.collect()
        frames = iter(consumer)
        assert next(frames).sequence == 4
        with pytest.raises(PeerGoneError, match="the producer died: its process ended without closing") as gone:
            next(frames)
        assert gone.value.state == "died"


def test_a_frame_published_just_before_the_end_is_not_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the producer publish and die between the consumer's check for frames and its check of the peer."""
    with FrameRing.create(path, SHAPE) as producer, FrameRing.open(path) as consumer:

        def publish_and_die(side: Side) -> str:
            producer.put(np.full(SHAPE, 9, np.uint8))
            return "died"

        monkeypatch.setattr(Side, "peer", publish_and_die)
        with next_now(consumer) as frame:
            assert frame.array[0, 0] == 9


def test_a_full_ring_reports_that_the_consumer_is_gone(path: Path) -> None:
    with FrameRing.create(path, SHAPE, slots=1) as producer:
        assert producer.put(np.zeros(SHAPE, np.uint8), 0)
        assert producer.acquire(0) is None  # no consumer has opened the ring yet
        FrameRing.open(path).close()
        with pytest.raises(PeerGoneError, match="the consumer closed the ring"):
            producer.acquire(0)


def test_the_next_consumer_gets_an_unreleased_frame(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer:
        producer.put(np.full(SHAPE, 5, np.uint8))
        with FrameRing.open(path) as consumer:
            kept = next_now(consumer).array
        assert kept[0, 0] == 5  # a view keeps the memory mapped
        with FrameRing.open(path) as consumer, next_now(consumer) as frame:
            assert (frame.sequence, frame.array[0, 0]) == (1, 5)


def test_create_of_an_existing_ring(path: Path) -> None:
    with FrameRing.create(path, SHAPE) as producer:
        producer.put(np.zeros(SHAPE, np.uint8))
    with pytest.raises(FrameRingError, match="exists already; remove it, open it, or pass reuse=True"):
        FrameRing.create(path, SHAPE)
    with FrameRing.create(path, SHAPE, reuse=True) as producer:
        assert acquire_now(producer).sequence == 2
    with pytest.raises(
        FrameRingError,
        match=r"is a ring of uint8 \(3, 4\), strides \(4, 1\), 4 slots, no checksum, "
        r"not of uint8 \(3, 4\), strides \(4, 1\), 5 slots, CRC-32; remove it or choose another",
    ):
        FrameRing.create(path, SHAPE, slots=5, checksum=True, reuse=True)
    assert FrameRing.open(path, "producer").peer == "never came"  # the refused call released its role


def test_create_at_an_invalid_path(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the folder .* does not exist; create it first"):
        FrameRing.create(tmp_path / "none" / "ring", SHAPE)
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(FrameRingError, match="exists already"):
        FrameRing.create(tmp_path / "link", SHAPE)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm here")
def test_missing_memory_is_refused_at_creation() -> None:
    before = sorted(os.listdir("/dev/shm"))  # noqa: PTH208
    with pytest.raises(OutputError, match="the disk is full; free some space or choose another location"):
        FrameRing.create("/dev/shm/segnets-test-too-large", (1 << 40,), slots=1 << 10)
    assert sorted(os.listdir("/dev/shm")) == before  # noqa: PTH208


def test_waiting_for_the_file(path: Path) -> None:
    with pytest.raises(FrameRingError, match="does not exist; start the side that creates the ring first"):
        FrameRing.open(path, timeout=0.01)
    rings: list[FrameRing] = []
    later = threading.Timer(0.05, lambda: rings.append(FrameRing.create(path, SHAPE)))
    later.start()
    with FrameRing.open(path, timeout=60) as consumer:
        later.join()
        assert consumer.peer == "alive"
    rings[0].close()


def test_other_platforms_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    calls: list[Callable[[], FrameRing]] = [lambda: FrameRing.create(path, SHAPE), lambda: FrameRing.open(path)]
    for call in calls:
        with pytest.raises(FrameRingError, match="relies on the store order of 64-bit x86; this is aarch64: use"):
            call()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(FrameRingError, match="needs Linux's file locks; this is darwin"):
        FrameRing.open(path)


def test_a_forked_child_does_not_release_the_role(path: Path) -> None:
    script = f"""
import os, segnets
ring = segnets.FrameRing.create({str(path)!r}, (4,))
if os.fork() == 0:
    ring.close()
    os._exit(0)
os.wait()
with segnets.FrameRing.open({str(path)!r}) as consumer:
    print(consumer.peer)
try:
    segnets.FrameRing.open({str(path)!r}, "producer")
except segnets.FrameRingError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"alive\n{path}: already has a producer")
