"""A ring of frames in shared memory: one producer, one consumer, in Python or C++ (`segnets::FrameRing`), no copies.

The producer fills a slot and then stores the count of published frames; the consumer looks at frames up to that count
alone, and the producer writes to none of these until the consumer's own count says that it was released. So a process
can be killed anywhere: a frame was published whole or not at all. For 64-bit x86 and Linux; `_side.py` says why.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnets.errors import FrameRingError, PeerGoneError
from segnets.frame_ring import _file as ring_file
from segnets.frame_ring._file import Role
from segnets.frame_ring._layout import FrameLayout, make_layout
from segnets.frame_ring._side import Peer, Side
from segnets.frame_ring._views import Frame, Slot


class FrameRing:
    """One side of a ring of frames; made by `create` and `open`. For one thread at a time.

    Close it, or use it in a `with`. A side that ends otherwise, be it by an exception out of the `with` or by a kill,
    has "died" for its peer. A forked child must not use it; while it lives, the side seems alive.
    """

    def __init__(self, side: Side) -> None:
        """For `create` and `open`."""
        self._side = side
        self._holds: Slot | Frame | None = None

    @property
    def path(self) -> Path:
        return self._side.path

    @property
    def role(self) -> Role:
        return self._side.role

    @property
    def layout(self) -> FrameLayout:
        """Shape, dtype, strides, slots and checksum of the frames."""
        return self._side.layout

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
            return cls(Side(path, layout, role, ring_file.create_file(path, layout, role)))
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
            time.sleep(0.001)
        descriptor, layout = ring_file.open_file(path, role)
        return cls(Side(path, layout, role, descriptor))

    @property
    def peer(self) -> Peer:
        """The other side: "never came", "alive", "closed" (said so) or "died" (ended without saying so)."""
        self._require(self.role, "peer")
        return self._side.peer()

    @property
    def waiting(self) -> int:
        """Frames that were published and not released."""
        self._require(self.role, "waiting")
        available = self._side.available()
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
        if not self._side.wait(timeout):
            return None
        sequence = self._side.count + 1
        self._holds = slot = Slot(self, self._side.view(sequence), sequence)
        return slot

    def put(self, frame: npt.ArrayLike, timeout: float | None = None, *, tag: int = 0) -> bool:
        """Producer: copy an array of the ring's shape and dtype into a slot and publish it.

        timeout, errors: as for `acquire`. Returns False if no slot was free in that time.
        """
        source = np.asarray(frame)
        if (source.shape, source.dtype) != (self.layout.shape, np.dtype(self.layout.dtype)):
            raise FrameRingError(
                f"{self.path}: a frame of {source.dtype} {source.shape}, "
                f"expected {self.layout.dtype} {self.layout.shape}"
            )
        slot = self.acquire(timeout)
        if slot is None:
            return False
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
        if not self._side.wait(timeout):
            return None
        sequence = self._side.count + 1
        timestamp, tag, damage = self._side.read_slot(sequence)
        if damage is not None:
            self._side.advance()
            raise FrameRingError(
                f"{self.path}: frame {sequence} is damaged ({damage}): somebody else writes to the ring; "
                "it was passed over"
            )
        self._holds = frame = Frame(self, self._side.view(sequence), sequence, timestamp, tag)
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
        self._end(done=True)

    def __enter__(self) -> FrameRing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(done=kind is None)

    def _end(self, *, done: bool) -> None:
        if self._holds is not None:
            self._holds._expire()
            self._holds = None
        self._side.leave(done=done)

    def _require(self, role: Role, call: str) -> None:
        if not self._side.is_open:
            raise FrameRingError(f"{self.path}: {call} after close(); open the ring again")
        if self.role != role:
            raise FrameRingError(f"{self.path}: {call}() is for the {role}, this is the other side")

    # What the slots and frames that it gave call.

    def _publish(self, slot: Slot) -> None:
        timestamp = time.monotonic_ns() if slot.timestamp is None else slot.timestamp
        self._side.describe_slot(slot.sequence, timestamp, slot.tag)
        self._holds = None
        self._side.advance()

    def _cancel(self) -> None:
        self._holds = None

    def _release(self) -> None:
        self._holds = None
        self._side.advance()


def _check_role(role: str) -> None:
    if role not in ("producer", "consumer"):
        raise FrameRingError(f"role={role!r}, expected 'producer' or 'consumer'")
