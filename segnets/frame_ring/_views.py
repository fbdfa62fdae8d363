"""Slots to fill and frames to read. Both are views of the ring's memory, never copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from segnets.errors import FrameRingError

if TYPE_CHECKING:
    from types import TracebackType

    from segnets.frame_ring._ring import FrameRing


class Slot:
    """Memory for the next frame of a producer, from `FrameRing.acquire`.

    As a context manager, a slot is published at the end of the `with` block, and cancelled if the block raises.

    Attributes:
        sequence: Number of the frame.
        tag: Any number 0..2**64-1 for the consumer.
        timestamp: Time in nanoseconds; None means `time.monotonic_ns` when the slot is published.
    """

    def __init__(self, ring: FrameRing, memory: npt.NDArray[Any], sequence: int) -> None:
        self.sequence = sequence
        self.tag = 0
        self.timestamp: int | None = None
        self._ring = ring
        self._memory: npt.NDArray[Any] | None = memory

    @property
    def array(self) -> npt.NDArray[Any]:
        """Writable memory with the ring's shape, dtype and strides. Its initial content is undefined.

        It must not be written to after publishing.

        Raises:
            FrameRingError: If the slot was published or cancelled.
        """
        if self._memory is None:
            raise FrameRingError(
                f"{self._ring.path}: slot {self.sequence} was published or cancelled; acquire() another"
            )
        return self._memory

    @property
    def tensor(self) -> torch.Tensor:
        """The same memory as a tensor."""
        return torch.from_numpy(self.array)

    def publish(self) -> None:
        """Publish the slot as a frame for the consumer.

        Raises:
            FrameRingError: If the slot was published or cancelled.
        """
        array = self.array
        self._ring._publish(self)
        self._expire()
        array.flags.writeable = False  # later writes to a kept array raise ValueError

    def cancel(self) -> None:
        """Return the slot without publishing it. The next slot has the same memory and sequence."""
        if self._memory is not None:
            self._expire()
            self._ring._cancel()

    def _expire(self) -> None:
        self._memory = None

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, value: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._memory is not None:
            if error_type is None:
                self.publish()
            else:
                self.cancel()


class Frame:
    """Published frame, from `FrameRing.next`. Belongs to the consumer until released.

    As a context manager, a frame is released at the end of the `with` block.

    Attributes:
        sequence: Number of the frame, counted from 1. A ring with `latest` skips frames, others have no gaps.
        timestamp: Time in nanoseconds, from `time.monotonic_ns` unless the producer set it.
        tag: Number set by the producer.
    """

    def __init__(self, ring: FrameRing, memory: npt.NDArray[Any], sequence: int, timestamp: int, tag: int) -> None:
        self.sequence = sequence
        self.timestamp = timestamp
        self.tag = tag
        self._ring = ring
        self._memory: npt.NDArray[Any] | None = memory

    @property
    def array(self) -> npt.NDArray[Any]:
        """Read-only memory with the ring's shape, dtype and strides.

        An array kept after the release shows later frames, so copy what you need to keep.

        Raises:
            FrameRingError: If the frame was released.
        """
        view = self._alive().view()
        view.flags.writeable = False
        return view

    @property
    def tensor(self) -> torch.Tensor:
        """The same memory as a tensor. It must not be written to; torch has no read-only tensors.

        Raises:
            FrameRingError: If the frame was released.
        """
        return torch.from_numpy(self._alive())

    def release(self) -> None:
        """Let the producer overwrite the frame.

        Raises:
            FrameRingError: If the frame was released before.
        """
        self._alive()
        self._expire()
        self._ring._release()

    def _expire(self) -> None:
        self._memory = None

    def _alive(self) -> npt.NDArray[Any]:
        if self._memory is None:
            raise FrameRingError(f"{self._ring.path}: frame {self.sequence} was released; copy it before the release")
        return self._memory

    def __enter__(self) -> Frame:
        return self

    def __exit__(self, *_: object) -> None:
        if self._memory is not None:
            self.release()
