"""Ring of frames in shared memory for one producer and one consumer, in Python or C++ (`segnets::FrameRing`).

Frames are not copied. The producer fills a slot and then stores the number of published frames. The consumer only reads
frames up to this number, and the producer only overwrites frames that the consumer has released. A process may be
killed at any point: a frame is published completely or not at all. Requires Linux on a 64-bit x86, for the reasons
given in `_side.py`.
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
    """One side of a frame ring, from `create` or `open`. Must not be used by two threads at once.

    Call `close`, or use the ring as a context manager. If a side is killed, or an exception leaves
    its `with` block, its peer sees it as "died". A forked child must not use the ring, and keeps the side alive until
    the child ends.
    """

    def __init__(self, side: Side) -> None:
        self._side = side
        self._held: Slot | Frame | None = None

    @property
    def path(self) -> Path:
        """Path of the ring's file."""
        return self._side.path

    @property
    def role(self) -> Role:
        """Role of this side, "producer" or "consumer"."""
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
        latest: bool = False,
        reuse: bool = False,
    ) -> FrameRing:
        """Create a ring and take a role in it. All memory is allocated immediately.

        Args:
            path: Path of the ring's file, in /dev/shm for shared memory without a disk. The file remains until it is
                removed.
            shape: Shape of every frame.
            dtype: Type of every frame: uint8, int16, uint16, int32, int64, float16, float32 or float64, as a NumPy or
                torch dtype or a name.
            role: Role of this side.
            slots: Number of frames that the ring holds. When all are published and not released, the producer has to
                wait or drop frames.
            strides: Bytes from one index to the next, as in NumPy, for frames with gaps or another order of dimensions.
                None means C order.
            checksum: Whether every frame has a CRC-32, which detects stray writes. It costs a pass over the frame on
                both sides.
            latest: Whether a slow consumer gets the newest frame instead of every frame. The producer then never waits:
                it overwrites frames that were not read, and the consumer gets copies. Needs two slots or more.
            reuse: Whether to open an existing ring with the same layout. Its frames and sequence continue.

        Returns:
            This side of the ring.

        Raises:
            FrameRingError: If an argument is not allowed, the file exists (without `reuse`) or has a different layout,
                or the role is taken.
            OutputError: If the file can't be written.
        """
        path = Path(path)
        ring_file.check_platform()
        _check_role(role)
        layout = make_layout(str(path), shape, dtype, slots, strides, checksum, latest)
        if not os.path.lexists(path):
            return cls(Side(path, layout, role, ring_file.create_file(path, layout, role)))
        if not reuse:
            raise FrameRingError(f"{path}: exists already; remove it, open it, or pass reuse=True")
        ring = cls.open(path, role)
        if ring.layout != layout:
            found = ring.layout
            ring.close()
            raise FrameRingError(f"{path}: is a ring of {found}, not of {layout}; remove it or choose another")
        return ring

    @classmethod
    def open(cls, path: str | os.PathLike[str], role: Role = "consumer", *, timeout: float = 0.0) -> FrameRing:
        """Take a role in an existing ring.

        Args:
            path: Path of the ring's file.
            role: Role of this side.
            timeout: Seconds to wait for the file to appear.

        Returns:
            This side of the ring.

        Raises:
            FrameRingError: If the file does not exist, is not a valid ring, or the role is taken.
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
        """State of the other side: "never came", "alive", "closed", or "died" if it ended without closing the ring."""
        self._require(self.role, "peer")
        return self._side.peer()

    @property
    def waiting(self) -> int:
        """Number of frames that are published and neither released nor skipped."""
        self._require(self.role, "waiting")
        return self._side.waiting()

    def acquire(self, timeout: float | None = None) -> Slot | None:
        """Wait for a free slot (producer only).

        Args:
            timeout: Seconds to wait; 0 does not wait, None waits without limit.

        Returns:
            The slot, or None if all slots are still full. A slot that is neither published nor cancelled is returned
            again.

        Raises:
            PeerGoneError: If all slots are full and the consumer has closed the ring or died.
            FrameRingError: If the ring is closed, or this side is the consumer.
        """
        self._require("producer", "acquire")
        if isinstance(self._held, Slot):
            return self._held
        if not self._side.wait(timeout):
            return None
        sequence = self._side.count + 1
        self._held = slot = Slot(self, self._side.view(sequence), sequence)
        return slot

    def put(self, frame: npt.ArrayLike, timeout: float | None = None, *, tag: int = 0) -> bool:
        """Copy an array into a slot and publish it (producer only).

        Args:
            frame: Array of the ring's shape and dtype.
            timeout: Seconds to wait for a free slot; 0 does not wait, None waits without limit.
            tag: Any number 0..2**64-1 for the consumer.

        Returns:
            True, or False if all slots are still full.

        Raises:
            PeerGoneError: If all slots are full and the consumer has closed the ring or died.
            FrameRingError: If the array has the wrong shape or dtype, the ring is closed, or this side is the consumer.
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
        """Wait for the next frame, which must be released before the next call (consumer only).

        In a ring with `latest`, it is the newest frame, if it was not returned before. The frame is then a copy.

        Waiting is done by polling. A frame is seen up to about 1.1 ms after it is published; in a fast stream, 0.1 ms.

        Args:
            timeout: Seconds to wait; 0 does not wait, None waits without limit.

        Returns:
            The frame, or None if none was published.

        Raises:
            PeerGoneError: If no frame is left and the producer has closed the ring or died.
            FrameRingError: If the frame's sequence or checksum is wrong (the frame is then skipped), the previous frame
                is not released, the ring is closed, or this side is the producer.
        """
        self._require("consumer", "next")
        if self._held is not None:
            raise FrameRingError(f"{self.path}: next() before frame {self._held.sequence} was released")
        if not self._side.wait(timeout):
            return None
        if self.layout.latest:
            sequence, copy = self._side.copy_newest()
        else:
            sequence, copy = self._side.count + 1, None
        timestamp, tag, damage = self._side.read_slot(sequence, copy)
        if damage is not None:
            self._side.advance()
            raise FrameRingError(
                f"{self.path}: frame {sequence} is damaged ({damage}): another process is writing to the ring; the "
                "frame was skipped"
            )
        self._held = frame = Frame(self, self._side.view(sequence, copy), sequence, timestamp, tag)
        return frame

    def __iter__(self) -> Iterator[Frame]:
        """Iterate over the frames until the producer closes the ring (consumer only).

        Each frame is released when the next one is requested.

        Yields:
            The frames.

        Raises:
            PeerGoneError: If the producer died, after its last frame.
            FrameRingError: Under the same conditions as `next`.
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
        """Release the role and mark the ring as closed for the peer.

        Frames and slots must not be used afterwards.
        """
        self._end(done=True)

    def __enter__(self) -> FrameRing:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._end(done=error_type is None)

    def _end(self, *, done: bool) -> None:
        if self._held is not None:
            self._held._expire()
            self._held = None
        self._side.leave(done=done)

    def _require(self, role: Role, call: str) -> None:
        if not self._side.is_open:
            raise FrameRingError(f"{self.path}: {call} after close(); open the ring again")
        if self.role != role:
            raise FrameRingError(f"{self.path}: {call}() is for the {role} only")

    # The following methods are called by slots and frames.

    def _publish(self, slot: Slot) -> None:
        timestamp = time.monotonic_ns() if slot.timestamp is None else slot.timestamp
        self._side.describe_slot(slot.sequence, timestamp, slot.tag)
        self._held = None
        self._side.advance()

    def _cancel(self) -> None:
        self._held = None

    def _release(self) -> None:
        self._held = None
        self._side.advance()


def _check_role(role: str) -> None:
    if role not in ("producer", "consumer"):
        raise FrameRingError(f"role={role!r}, expected 'producer' or 'consumer'")
