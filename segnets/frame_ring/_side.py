"""One side's hold on a ring: the mapping, the role, the two counts, and the order in which they are stored.

This rests on two things. Each count is stored by one 8-byte move, which an item assignment of a memoryview of "Q" is in
CPython. And these stores appear to other processors in the order in which they were made, which 64-bit x86 promises
for ordinary stores (total store order; what copies by other kinds of stores ends with a fence). Other processors need
barriers that Python doesn't have, so there a ring is refused; C++ has them and runs everywhere.
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
# The pauses of a wait, in seconds: short for the first frames after a gap, then such that the processor has rest.
_FIRST_PAUSE, _LONGEST_PAUSE = 50e-6, 1e-3


class Side:
    """The protocol without the questions of who may call what when, which are FrameRing's."""

    def __init__(self, path: Path, layout: FrameLayout, role: Role, descriptor: int) -> None:
        """descriptor: of the ring's file, with the role taken; ours from now on. Raises FrameRingError."""
        self.path = path
        self.layout = layout
        self.role = role
        self._descriptor = descriptor
        self._process = os.getpid()
        # Whatever becomes of this object, the role becomes free; not through a forked child, which shares the lock.
        self._leave = weakref.finalize(self, _give_up, descriptor, role, self._process)
        try:
            self._memory = mmap.mmap(descriptor, layout.file_size)
        except OSError as error:
            self._leave()
            raise FrameRingError(f"{path}: can't be mapped: {error.strerror}") from None
        self._numbers = memoryview(self._memory)[:HEADER_SIZE].cast("Q")
        self.count = self._numbers[_COUNT[role]]  # our own: frames published, or released
        try:
            self.available()
        except FrameRingError:
            self.leave(done=False)
            raise
        self._numbers[_STATE[role]] = _CAME

    @property
    def is_open(self) -> bool:
        return self._leave.alive

    def leave(self, *, done: bool) -> None:
        """Give up the role; done: tell the peer that it was no accident."""
        if not self.is_open:
            return
        if done and os.getpid() == self._process:
            self._numbers[_STATE[self.role]] = _CLOSED
        self._leave()
        self._numbers.release()
        with contextlib.suppress(BufferError):  # somebody kept a view: the memory goes when that goes
            self._memory.close()

    def peer(self) -> Peer:
        other = _OTHER[self.role]
        if ring_file.is_taken(self._descriptor, other):
            return "alive"
        state = self._numbers[_STATE[other]]
        return "never came" if state == 0 else "closed" if state == _CLOSED else "died"

    def available(self) -> int:
        """Frames that may be read, or slots that may be filled. The peer's count is somebody else's word."""
        theirs = self._numbers[_COUNT[_OTHER[self.role]]]
        written, read = (self.count, theirs) if self.role == "producer" else (theirs, self.count)
        if not 0 <= written - read <= self.layout.slots:
            raise FrameRingError(
                f"{self.path}: says that {written} frames were written and {read} read, with {self.layout.slots} "
                "slots; remove the file and create the ring again"
            )
        return self.layout.slots - (written - read) if self.role == "producer" else written - read

    def wait(self, timeout: float | None) -> bool:
        """Poll with growing pauses until there is something available, or the time is over. Raises PeerGoneError."""
        if self.available():
            return True
        start, pause = time.monotonic(), _FIRST_PAUSE
        timeout = None if timeout is None else float(timeout)  # NumPy's, too
        while True:
            peer = self.peer()
            # Asked again after the peer, which does its last work before its lock ends.
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
        """Publish, or release, one frame: one 8-byte move, after all that was stored before."""
        self.count += 1
        self._numbers[_COUNT[self.role]] = self.count

    def view(self, sequence: int) -> npt.NDArray[Any]:
        """The memory of a frame, which can't be unmapped while the array lives.

        It's `frombuffer` that holds the mapping. `ndarray(buffer=mmap)` doesn't: to read it after a close is a crash.
        """
        whole = np.frombuffer(self._memory, np.uint8)
        offset = self._offset(sequence) + SLOT_HEADER
        return np.ndarray(self.layout.shape, self.layout.dtype, whole, offset, self.layout.strides)

    def describe_slot(self, sequence: int, timestamp: int, tag: int) -> None:
        """Write a slot's own header. Raises FrameRingError for numbers that don't fit."""
        checksum = self._checksum(sequence) if self.layout.checksum else 0
        try:
            _SLOT.pack_into(self._memory, self._offset(sequence), sequence, timestamp, tag, checksum)
        except struct.error:
            raise FrameRingError(
                f"{self.path}: timestamp={timestamp}, tag={tag}: expected whole numbers, 0..2**64-1"
            ) from None

    def read_slot(self, sequence: int) -> tuple[int, int, str | None]:
        """Timestamp and tag of a frame, and what is wrong with it."""
        found, timestamp, tag, checksum = _SLOT.unpack_from(self._memory, self._offset(sequence))
        damage = None
        if found != sequence:
            damage = f"its slot says {found}"
        elif self.layout.checksum and checksum & 0xFFFFFFFF != self._checksum(sequence):
            damage = "its checksum is wrong"
        return timestamp, tag, damage

    def _offset(self, sequence: int) -> int:
        """Where the slot of a frame begins."""
        return HEADER_SIZE + (sequence - 1) % self.layout.slots * self.layout.slot_size

    def _checksum(self, sequence: int) -> int:
        offset = self._offset(sequence) + SLOT_HEADER
        with memoryview(self._memory) as memory, memory[offset : offset + self.layout.frame_size] as frame:
            return zlib.crc32(frame)


# Not a method: what `finalize` calls must not keep the side alive.
def _give_up(descriptor: int, role: Role, process: int) -> None:
    if os.getpid() == process:
        ring_file.give_up(descriptor, role)
    os.close(descriptor)
