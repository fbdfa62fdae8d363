"""What a ring hands out: a slot to fill, a frame to look at. Both are memory of the ring, never a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from segnets.errors import FrameRingError

if TYPE_CHECKING:
    from types import TracebackType

    from segnets.frame_ring._ring import FrameRing


class Slot:
    """Room for the next frame. `with slot:` publishes it at the end, and gives it back when an exception ends it.

    sequence: the number that the frame will have. tag: 0..2**64-1, whatever the producer wants to say.
    timestamp: nanoseconds; None stands for the moment of publishing, of `time.monotonic_ns`.
    """

    def __init__(self, ring: FrameRing, memory: npt.NDArray[Any], sequence: int) -> None:
        self.sequence = sequence
        self.tag = 0
        self.timestamp: int | None = None
        self._ring = ring
        self._memory: npt.NDArray[Any] | None = memory

    @property
    def array(self) -> npt.NDArray[Any]:
        """The memory, with the ring's shape, dtype and strides; what it holds beforehand means nothing.

        Not to be written after publishing, when it is the consumer's. Raises FrameRingError then.
        """
        if self._memory is None:
            raise FrameRingError(f"{self._ring.path}: slot {self.sequence} is no longer ours; acquire() another")
        return self._memory

    @property
    def tensor(self) -> torch.Tensor:
        """The same memory for torch."""
        return torch.from_numpy(self.array)

    def publish(self) -> None:
        """Make it a frame, which the consumer sees from now on. Raises FrameRingError if that was done already."""
        array = self.array
        self._ring._publish(self)
        self._expire()
        array.flags.writeable = False  # whoever kept it is told at the next assignment

    def cancel(self) -> None:
        """Give it back unpublished; the next slot is the same memory and sequence."""
        if self._memory is not None:
            self._expire()
            self._ring._cancel()

    def _expire(self) -> None:
        self._memory = None

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        if self._memory is not None:
            if kind is None:
                self.publish()
            else:
                self.cancel()


class Frame:
    """A published frame, the consumer's until it's released. `with frame:` releases it at the end.

    sequence: 1 for the first frame of the ring, and so on without gaps. tag: what the producer said.
    timestamp: nanoseconds, of `time.monotonic_ns` unless the producer gave its own.
    """

    def __init__(self, ring: FrameRing, memory: npt.NDArray[Any], sequence: int, timestamp: int, tag: int) -> None:
        self.sequence = sequence
        self.timestamp = timestamp
        self.tag = tag
        self._ring = ring
        self._memory: npt.NDArray[Any] | None = memory

    @property
    def array(self) -> npt.NDArray[Any]:
        """The frame, read-only, with the ring's shape, dtype and strides.

        A view that is kept after the release shows whatever the producer writes there next: copy what shall last.
        Raises FrameRingError after the release.
        """
        view = self._alive().view()
        view.flags.writeable = False
        return view

    @property
    def tensor(self) -> torch.Tensor:
        """The same memory for torch, which knows no read-only tensors: don't write to it. As `array` otherwise."""
        return torch.from_numpy(self._alive())

    def release(self) -> None:
        """The producer may overwrite it. Raises FrameRingError if that was said already."""
        self._alive()
        self._expire()
        self._ring._release()

    def _expire(self) -> None:
        self._memory = None

    def _alive(self) -> npt.NDArray[Any]:
        if self._memory is None:
            raise FrameRingError(f"{self._ring.path}: frame {self.sequence} was released; use it before, or copy it")
        return self._memory

    def __enter__(self) -> Frame:
        return self

    def __exit__(self, *_: object) -> None:
        if self._memory is not None:
            self.release()
