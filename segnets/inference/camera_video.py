"""Camera as an endless video, which `segnets predict 0` reads until Ctrl-C. Not tested with a real camera."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from types import FrameType

from segnets.inference._pyav import BT709
from segnets.inference.sources.base import Item
from segnets.inference.sources.camera import CameraSource
from segnets.inference.video import Frame

_MILLISECOND = Fraction(1, 1000)
_USUAL_RATE = Fraction(25)


@dataclass
class CameraVideo:
    """Frames of a camera with their arrival times. It has the attributes of a `Video`.

    Attributes:
        index: Number of the camera, from 0.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.
    """

    index: int
    width: int
    height: int
    _frames: Iterator[Item] = field(repr=False)
    path = None
    frames = None
    rate = _USUAL_RATE
    time_base = _MILLISECOND
    notices = ()
    damaged = 0
    colour = (BT709, BT709)
    origin = Fraction(0)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the camera ends or `stop` is called, then release the camera."""
        started, last = time.monotonic(), -1
        for number, item in enumerate(self._frames):
            # No two frames share a time.
            last = max(last + 1, round((time.monotonic() - started) / _MILLISECOND))
            yield Frame(item.image, last, self.time_base, number)
            if self._stopped.is_set():
                break
        self.close()

    def stop(self) -> None:
        """Stop after the frame that is being computed."""
        self._stopped.set()

    def close(self) -> None:
        """Release the camera."""
        if isinstance(self._frames, Generator):
            self._frames.close()


def open_camera(index: int) -> CameraVideo:
    """Open a camera and read its first frame.

    Args:
        index: Number of the camera, from 0.

    Returns:
        The opened camera.

    Raises:
        ImageError: If OpenCV is not installed, or the camera can't be opened or delivers no frame.
    """
    frames = iter(CameraSource(index))
    first = next(frames)
    height, width = first.image.shape[:2]

    def all_frames() -> Generator[Item]:
        with contextlib.closing(frames):  # type: ignore[type-var]  # it is a generator
            yield first
            yield from frames

    return CameraVideo(index, width, height, all_frames())


@contextlib.contextmanager
def stopped_by_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on the first Ctrl-C inside the block. A second Ctrl-C raises KeyboardInterrupt as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
