"""One side of a frame ring: the mapped file, the role, the two counters, and the order of stores.

The protocol relies on two properties. First, each counter is stored by one 8-byte move, which is what CPython does for
an item assignment to a memoryview of "Q". Second, other CPUs see these stores in program order. 64-bit x86 guarantees
this for ordinary stores (total store order), and copies by non-temporal stores end with a fence. Other CPUs need
barriers, which Python does not have, so rings are refused there. The C++ side has barriers and runs on any CPU.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
import weakref
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segnets.errors import FrameRingError, PeerGoneError
from segnets.frame_ring import _file as ring_file
from segnets.frame_ring._file import Role
from segnets.frame_ring._layout import (
    CONSUMER_STATE,
    HEADER_SIZE,
    PRODUCER_STATE,
    READ,
    SLOT_HEADER,
    WRITTEN,
    FrameLayout,
)

Peer = Literal["never came", "alive", "closed", "died"]

_CAME, _CLOSED = 1, 2
_STATE = {"producer": PRODUCER_STATE // 8, "consumer": CONSUMER_STATE // 8}
_COUNT = {"producer": WRITTEN // 8, "consumer": READ // 8}
_OTHER: dict[Role, Role] = {"producer": "consumer", "consumer": "producer"}
_SLOT = struct.Struct("<QQQQ")  # sequence, timestamp, tag, checksum
# Pauses between polls in seconds, which start short for low latency and double to save CPU time.
_FIRST_PAUSE, _LONGEST_PAUSE = 50e-6, 1e-3
_MAX_COPIES = 1000  # attempts to copy the newest frame, which a fast producer may overwrite meanwhile


class Side:
    """Protocol of one side. FrameRing checks which calls are allowed.

    Args:
        path: Path of the ring.
        layout: Layout of the frames.
        role: Role of this side.
        descriptor: Descriptor of the ring's file that holds the lock. The Side closes it.

    Raises:
        FrameRingError: If the file can't be mapped or its counters are invalid.
    """

    def __init__(self, path: Path, layout: FrameLayout, role: Role, descriptor: int) -> None:
        self.path = path
        self.layout = layout
        self.role = role
        self._descriptor = descriptor
        self._process = os.getpid()
        # Unlocks the role even if the object is only garbage collected, but not in a forked child, which shares it.
        self._unlock = weakref.finalize(self, _unlock, descriptor, role, self._process)
        try:
            self._memory = mmap.mmap(descriptor, layout.file_size)
        except OSError as error:
            self._unlock()
            raise FrameRingError(f"{path}: can't be mapped: {error.strerror}") from None
        self._numbers = memoryview(self._memory)[:HEADER_SIZE].cast("Q")
        self.count = self._numbers[_COUNT[role]]  # frames published or released by this side
        try:
            self.available()
        except FrameRingError:
            self.leave(done=False)
            raise
        self._numbers[_STATE[role]] = _CAME

    @property
    def is_open(self) -> bool:
        """True if this side has the role."""
        return self._unlock.alive

    def leave(self, *, done: bool) -> None:
        """Release the role and the memory.

        Args:
            done: Whether the peer sees this side as "closed" instead of "died".
        """
        if not self.is_open:
            return
        if done and os.getpid() == self._process:
            self._numbers[_STATE[self.role]] = _CLOSED
        self._unlock()
        self._numbers.release()
        with contextlib.suppress(BufferError):  # a view exists, which keeps the memory mapped
            self._memory.close()

    def peer(self) -> Peer:
        """Return the state of the other side."""
        other = _OTHER[self.role]
        if ring_file.is_role_locked(self._descriptor, other):
            return "alive"
        state = self._numbers[_STATE[other]]
        return "never came" if state == 0 else "closed" if state == _CLOSED else "died"

    def waiting(self) -> int:
        """Return the number of frames that are published and not read.

        Raises:
            FrameRingError: If the counters are invalid. The peer's counter is not trusted.
        """
        theirs = self._numbers[_COUNT[_OTHER[self.role]]]
        written, read = (self.count, theirs) if self.role == "producer" else (theirs, self.count)
        if written < read or (written - read > self.layout.slots and not self.layout.latest):
            raise FrameRingError(
                f"{self.path}: its counters are invalid ({written} frames written and {read} read, with "
                f"{self.layout.slots} slots); remove the file and create the ring again"
            )
        return written - read

    def available(self) -> int:
        """Return the number of frames to read (consumer) or of free slots (producer)."""
        waiting = self.waiting()
        if self.role == "consumer":
            return waiting
        return self.layout.slots if self.layout.latest else self.layout.slots - waiting

    def wait(self, timeout: float | None) -> bool:
        """Poll with growing pauses until a frame or slot is available.

        Args:
            timeout: Seconds to wait, or None for no limit.

        Returns:
            True if one is available, False on timeout.

        Raises:
            PeerGoneError: If none is available and the peer has closed the ring or died.
        """
        if self.available():
            return True
        start, pause = time.monotonic(), _FIRST_PAUSE
        timeout = None if timeout is None else float(timeout)  # also accepts NumPy's floats
        while True:
            peer = self.peer()
            # Check again, because the peer may have published its last frame just before it released its lock.
            if self.available():
                return True
            if peer in ("closed", "died"):
                what = "closed the ring" if peer == "closed" else "died: its process ended without closing the ring"
                raise PeerGoneError(f"{self.path}: the {_OTHER[self.role]} {what}", peer)
            left = pause if timeout is None else timeout - (time.monotonic() - start)
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def advance(self) -> None:
        """Publish or release one frame, by one 8-byte move after all previous stores."""
        self.count += 1
        self._numbers[_COUNT[self.role]] = self.count

    def copy_newest(self) -> tuple[int, bytearray]:
        """Return the sequence of the newest frame, and a copy of its slot.

        The producer of a ring with `latest` doesn't wait. The copy is whole if the producer has not reached the slot
        again when the copy is complete.

        Raises:
            FrameRingError: If the producer overwrites the slot during every copy.
        """
        for _ in range(_MAX_COPIES):
            sequence = self._numbers[_COUNT["producer"]]
            offset = self._offset(sequence)
            copy = bytearray(self._memory[offset : offset + self.layout.slot_size])
            if self._numbers[_COUNT["producer"]] - sequence < self.layout.slots - 1:
                self.count = sequence - 1
                return sequence, copy
        raise FrameRingError(
            f"{self.path}: the producer overwrites frames faster than they can be copied; "
            "create the ring with more slots"
        )

    def view(self, sequence: int, slot: bytearray | None = None) -> npt.NDArray[Any]:
        """Return the memory of a frame, or of a copy of its slot, as an array, which keeps the file mapped.

        `frombuffer` holds a reference to the mapping. `ndarray(buffer=mmap)` does not, so reading it after `close`
        would crash.
        """
        whole = np.frombuffer(self._memory if slot is None else slot, np.uint8)
        offset = SLOT_HEADER + (self._offset(sequence) if slot is None else 0)
        return np.ndarray(self.layout.shape, self.layout.dtype, whole, offset, self.layout.strides)

    def describe_slot(self, sequence: int, timestamp: int, tag: int) -> None:
        """Write the header of a slot.

        Args:
            sequence: Number of the frame.
            timestamp: Nanoseconds, 0..2**64-1.
            tag: Any number 0..2**64-1.

        Raises:
            FrameRingError: If a number is out of range.
        """
        checksum = self._checksum(self._memory, self._offset(sequence)) if self.layout.checksum else 0
        try:
            _SLOT.pack_into(self._memory, self._offset(sequence), sequence, timestamp, tag, checksum)
        except struct.error:
            raise FrameRingError(
                f"{self.path}: timestamp={timestamp}, tag={tag}: expected whole numbers, 0..2**64-1"
            ) from None

    def read_slot(self, sequence: int, slot: bytearray | None = None) -> tuple[int, int, str | None]:
        """Return the timestamp and tag of a frame or a copy, and a description of its damage or None."""
        memory, offset = (self._memory, self._offset(sequence)) if slot is None else (slot, 0)
        found, timestamp, tag, checksum = _SLOT.unpack_from(memory, offset)
        damage = None
        if found != sequence:
            damage = f"its slot has sequence {found}"
        elif self.layout.checksum and checksum & 0xFFFFFFFF != self._checksum(memory, offset):
            damage = "wrong checksum"
        return timestamp, tag, damage

    def _offset(self, sequence: int) -> int:
        """Return the offset of a frame's slot in the file."""
        return HEADER_SIZE + (sequence - 1) % self.layout.slots * self.layout.slot_size

    def _checksum(self, memory: mmap.mmap | bytearray, slot: int) -> int:
        begin = slot + SLOT_HEADER
        with memoryview(memory) as whole, whole[begin : begin + self.layout.frame_size] as frame:
            return zlib.crc32(frame)


# A function instead of a method, which would keep the Side alive through `finalize`.
def _unlock(descriptor: int, role: Role, process: int) -> None:
    if os.getpid() == process:
        ring_file.unlock_role(descriptor, role)
    os.close(descriptor)
