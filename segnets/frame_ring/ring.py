"""A ring of frames in shared memory: one producer, one consumer, in Python or C++ (`segnets::FrameRing`), no copies.

The producer fills a slot and then stores the count of published frames; the consumer looks at frames below that count
alone, and the producer writes to none of these until the consumer's own count says that it was released. So a process
can be killed anywhere: a frame was published whole or not at all.

This rests on two things. Each count is stored by one 8-byte move, which an item assignment of a memoryview of "Q" is in
CPython. And these stores appear to other processors in the order in which they were made, which 64-bit x86 promises
for ordinary stores (total store order; what copies by other kinds of stores ends with a fence). Other processors need
barriers that Python doesn't have, so there FrameRing refuses; C++ has them and runs everywhere.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from segnets.errors import FrameRingError, PeerGoneError
from segnets.frame_ring import file as ring_file
from segnets.frame_ring.file import Role
from segnets.frame_ring.layout import (
    CONSUMER_STATE,
    HEADER_SIZE,
    PRODUCER_STATE,
    READ,
    SLOT_HEADER,
    WRITTEN,
    FrameLayout,
    make_layout,
)
from segnets.frame_ring.views import Frame, Slot, view_of

if TYPE_CHECKING:
    import numpy.typing as npt

Peer = Literal["never came", "alive", "closed", "died"]

_CAME, _CLOSED = 1, 2
_STATE = {"producer": PRODUCER_STATE // 8, "consumer": CONSUMER_STATE // 8}
_COUNT = {"producer": WRITTEN // 8, "consumer": READ // 8}
_OTHER: dict[Role, Role] = {"producer": "consumer", "consumer": "producer"}
_SLOT = struct.Struct("<QQQQ")  # sequence, timestamp, tag, checksum
# The pauses of a wait, in seconds: short for the first frames after a gap, then such that the processor has rest.
_FIRST_PAUSE, _LONGEST_PAUSE = 50e-6, 1e-3


class FrameRing:
    """One side of a ring of frames; made by `create` and `open`. For one thread at a time.

    Close it, or use it in a `with`. A side that ends otherwise, be it by an exception out of the `with` or by a kill,
    has "died" for its peer. A forked child must not use it; while it lives, the side seems alive.
    """

    def __init__(self, path: Path, layout: FrameLayout, role: Role, descriptor: int) -> None:
        """For `create` and `open`, which give the descriptor with the role taken."""
        self.path = path
        self.layout = layout
        self.role = role
        self._holds: Slot | Frame | None = None
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
        self._count = self._numbers[_COUNT[role]]  # our own counter, which nobody else writes
        try:
            self._available()
        except FrameRingError:
            self._detach()
            raise
        self._numbers[_STATE[role]] = _CAME

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        shape: Sequence[int],
        dtype: object = "uint8",
        *,
        role: Role = "producer",
        slots: int = 4,
        strides: Sequence[int] | None = None,
        checksum: bool = False,
        reuse: bool = False,
    ) -> FrameRing:
        """Make a ring, with its memory, and take a role in it. The file appears complete, with the role taken.

        path: in /dev/shm it is memory alone. The file stays until somebody removes it.
        shape, dtype: of every frame; uint8, int16, uint16, int32, int64, float16, float32 or float64.
        slots: frames that fit. The producer waits, or drops, when all are published and not released.
        strides: bytes from one index to the next, as NumPy's, for frames with gaps or another order; C order if None.
        checksum: a CRC-32 of each frame, which costs a pass over it on both sides and finds what a stray writer did.
        reuse: where a ring of this very layout exists, open that: its frames and its sequence go on.

        Raises FrameRingError for what no ring can have, for a file that exists (without `reuse`) or is another ring,
        and for a role that is taken; OutputError if the file can't be written.
        """
        path = Path(path)
        ring_file.check_platform()
        _check_role(role)
        layout = make_layout(str(path), shape, dtype, slots, strides, checksum)
        if not os.path.lexists(path):
            return cls(path, layout, role, ring_file.create_file(path, layout, role))
        if not reuse:
            raise FrameRingError(f"{path}: exists already; remove it, open it, or ask to reuse it")
        ring = cls.open(path, role)
        if ring.layout != layout:
            found = ring.layout
            ring.close()
            raise FrameRingError(f"{path}: is a ring of {found}, not of {layout}; remove it or name another")
        return ring

    @classmethod
    def open(cls, path: str | os.PathLike[str], role: Role = "consumer", *, timeout: float = 0.0) -> FrameRing:
        """Take a role in a ring that exists.

        timeout: seconds to wait for the file to appear.

        Raises FrameRingError if it doesn't, is no ring, is damaged, or if somebody has the role already.
        """
        path = Path(path)
        ring_file.check_platform()
        _check_role(role)
        end = time.monotonic() + timeout
        while not path.exists() and time.monotonic() < end:
            time.sleep(_LONGEST_PAUSE)
        descriptor, layout = ring_file.open_file(path, role)
        return cls(path, layout, role, descriptor)

    @property
    def peer(self) -> Peer:
        """The other side: "never came", "alive", "closed" (said so) or "died" (ended without saying so)."""
        self._require(self.role, "peer")
        other = _OTHER[self.role]
        if ring_file.is_taken(self._descriptor, other):
            return "alive"
        state = self._numbers[_STATE[other]]
        return "never came" if state == 0 else "closed" if state == _CLOSED else "died"

    @property
    def waiting(self) -> int:
        """Frames that were published and not released."""
        self._require(self.role, "waiting")
        available = self._available()
        return available if self.role == "consumer" else self.layout.slots - available

    def acquire(self, timeout: float | None = None) -> Slot | None:
        """Producer: wait for a free slot; a slot that was acquired before and not published is given again.

        timeout: seconds; 0 doesn't wait, None waits without end.

        Returns None if all slots are full after that time: wait again, or drop a frame. Raises PeerGoneError when all
        are full and the consumer has closed or died.
        """
        self._require("producer", "acquire")
        if isinstance(self._holds, Slot):
            return self._holds
        if not self._wait(timeout):
            return None
        sequence = self._count + 1
        self._holds = slot = Slot(self, self._view(sequence), sequence)
        return slot

    def put(self, frame: npt.ArrayLike, timeout: float | None = None, *, tag: int = 0) -> bool:
        """Producer: copy an array of the ring's shape into a slot and publish it; False if none was free in time."""
        slot = self.acquire(timeout)
        if slot is None:
            return False
        source = np.asarray(frame)
        if (source.shape, source.dtype) != (self.layout.shape, np.dtype(self.layout.dtype)):
            raise FrameRingError(
                f"{self.path}: a frame of {source.dtype} {source.shape}, "
                f"expected {self.layout.dtype} {self.layout.shape}"
            )
        with slot:
            slot.tag = tag
            slot.array[...] = source
        return True

    def next(self, timeout: float | None = None) -> Frame | None:
        """Consumer: wait for the next frame. Release it before the next call.

        timeout: seconds; 0 doesn't wait, None waits without end. A wait polls, so a frame that comes into it is seen
        up to a millisecond later (0.05 ms if it comes at once).

        Returns None if none came in that time. Raises PeerGoneError when the producer has closed or died and no frame
        is left that it published before; FrameRingError for a frame whose sequence or checksum is wrong, which is
        passed over, and when the frame before was not released.
        """
        self._require("consumer", "next")
        if self._holds is not None:
            raise FrameRingError(f"{self.path}: next() before frame {self._holds.sequence} was released")
        if not self._wait(timeout):
            return None
        expected = self._count + 1
        sequence, timestamp, tag, checksum = _SLOT.unpack_from(self._memory, self._offset(expected))
        damage = None
        if sequence != expected:
            damage = f"its slot says {sequence}"
        elif self.layout.checksum and checksum & 0xFFFFFFFF != self._checksum(expected):
            damage = "its checksum is wrong"
        if damage is not None:
            self._advance()
            raise FrameRingError(
                f"{self.path}: frame {expected} is damaged ({damage}): somebody else writes to the ring; "
                "it was passed over"
            )
        self._holds = frame = Frame(self, self._view(expected), expected, timestamp, tag)
        return frame

    def __iter__(self) -> Iterator[Frame]:
        """Consumer: the frames as they come, each released when the next is asked for; ends when the producer closes.

        Raises PeerGoneError when the producer died, after the last frame that it published.
        """
        while True:
            try:
                frame = self.next()
            except PeerGoneError as gone:
                if gone.state == "closed":
                    return
                raise
            if frame is not None:
                with frame:
                    yield frame

    def close(self) -> None:
        """Tell the peer that no more comes, and give up the role. Frames and slots are not to be used any more."""
        if self._leave.alive:
            if os.getpid() == self._process:
                self._numbers[_STATE[self.role]] = _CLOSED
            self._detach()

    def __enter__(self) -> FrameRing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._leave.alive:
            self._detach()  # not finished: the peer shall hear "died"

    def _detach(self) -> None:
        if self._holds is not None:
            self._holds._expire()
            self._holds = None
        self._leave()
        self._numbers.release()
        with contextlib.suppress(BufferError):  # somebody kept a view: the memory goes when that goes
            self._memory.close()

    def _require(self, role: Role, call: str) -> None:
        if not self._leave.alive:
            raise FrameRingError(f"{self.path}: {call} after close(); open the ring again")
        if self.role != role:
            raise FrameRingError(f"{self.path}: {call}() is for the {role}, this is the other side")

    def _available(self) -> int:
        """Frames that may be read, or slots that may be filled. The peer's counter is somebody else's word."""
        theirs = self._numbers[_COUNT[_OTHER[self.role]]]
        written, read = (self._count, theirs) if self.role == "producer" else (theirs, self._count)
        if not 0 <= written - read <= self.layout.slots:
            raise FrameRingError(
                f"{self.path}: says that {written} frames were written and {read} read, with {self.layout.slots} "
                "slots; remove the file and create the ring again"
            )
        return self.layout.slots - (written - read) if self.role == "producer" else written - read

    def _wait(self, timeout: float | None) -> bool:
        """Poll with growing pauses until there is something available, or the time is over. Raises PeerGoneError."""
        if self._available():
            return True
        start, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            peer = self.peer
            # Asked again after the peer, which does its last work before its lock ends.
            if self._available():
                return True
            if peer in ("closed", "died"):
                what = "closed the ring" if peer == "closed" else "died: its process ended without closing the ring"
                raise PeerGoneError(f"{self.path}: the {_OTHER[self.role]} {what}", peer)
            left = pause if timeout is None else timeout - (time.monotonic() - start)
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _offset(self, sequence: int) -> int:
        """Where the slot of a frame begins."""
        return HEADER_SIZE + (sequence - 1) % self.layout.slots * self.layout.slot_size

    def _view(self, sequence: int) -> npt.NDArray[Any]:
        offset = self._offset(sequence) + SLOT_HEADER
        return view_of(self._memory, offset, self.layout.shape, self.layout.dtype, self.layout.strides)

    def _checksum(self, sequence: int) -> int:
        offset = self._offset(sequence) + SLOT_HEADER
        with memoryview(self._memory) as memory, memory[offset : offset + self.layout.frame_size] as frame:
            return zlib.crc32(frame)

    def _publish(self, slot: Slot) -> None:
        sequence = slot.sequence
        checksum = self._checksum(sequence) if self.layout.checksum else 0
        timestamp = time.monotonic_ns() if slot.timestamp is None else slot.timestamp
        try:
            _SLOT.pack_into(self._memory, self._offset(sequence), sequence, timestamp, slot.tag, checksum)
        except struct.error:
            raise FrameRingError(
                f"{self.path}: timestamp={timestamp}, tag={slot.tag}: expected whole numbers, 0..2**64-1"
            ) from None
        self._holds = None
        self._advance()

    def _advance(self) -> None:
        self._count += 1
        self._numbers[_COUNT[self.role]] = self._count  # one 8-byte move, after all that was stored before

    def _cancel(self) -> None:
        self._holds = None

    def _release(self) -> None:
        self._holds = None
        self._advance()


# Not a method: what `finalize` calls must not keep the ring alive.
def _give_up(descriptor: int, role: Role, process: int) -> None:
    if os.getpid() == process:
        ring_file.give_up(descriptor, role)
    os.close(descriptor)


def _check_role(role: str) -> None:
    if role not in _OTHER:
        raise FrameRingError(f"role={role!r}, expected 'producer' or 'consumer'")
