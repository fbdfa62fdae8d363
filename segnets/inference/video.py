"""Read the frames of a video as players show them. PyAV is imported when first used (extra `video`)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segnets.errors import ImageError
from segnets.inference._pyav import BT709, THREADS, load_pyav

Pixels = npt.NDArray[np.uint8]

# In ITU-T H.273, whose numbers FFmpeg uses.
_UNSPECIFIED = 2
_WIDE_CURVES = {16: "PQ", 18: "HLG"}

# From this height or width on, players assume BT.709 instead of BT.601 for a video without a colour matrix.
_HD_HEIGHT, _HD_WIDTH = 720, 1280


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        pixels: Array of shape (H, W, 3), uint8, RGB, in display orientation.
        pts: Time at which it is shown, in units of `time_base`.
        time_base: Unit of `pts` in seconds.
        index: Number of the frame, from 0.
        duration: Display time, in units of `time_base`; 0 if the file does not state it.
    """

    pixels: Pixels
    pts: int
    time_base: Fraction
    index: int
    duration: int = 0

    @property
    def seconds(self) -> Fraction:
        """Time at which the frame is shown, in seconds."""
        return self.pts * self.time_base


@dataclass
class Video:
    """Video file. Iterating over it decodes its frames one by one, each time from the start.

    Attributes:
        path: The file.
        width: Width of the displayed frames in pixels.
        height: Height of the displayed frames in pixels.
        frames: Number of frames, or None if the file does not state it.
        rate: Mean number of frames per second.
        time_base: Unit of the times in seconds.
        has_audio: Whether the file has sound.
        notices: Differences between the frames and what the file asks players to display.
        damaged: Number of packets that can't be decoded or are missing, counted while iterating. They are left out.
        colour: Numbers of the colour primaries and the transfer curve (ITU-T H.273).
        origin: Time in the file that becomes 0, in seconds.
    """

    path: Path
    width: int
    height: int
    frames: int | None
    rate: Fraction
    time_base: Fraction
    has_audio: bool
    notices: tuple[str, ...]
    damaged: int = field(default=0, init=False)
    _orientation: _Orientation = field(repr=False)
    colour: tuple[int, int] = field(repr=False)
    origin: Fraction = field(repr=False)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in the order in which they are shown.

        Raises:
            ImageError: If the file can't be read, or a frame differs in size from the first one.
        """
        self.damaged = 0
        last: int | None = None
        with _opened(self.path) as (container, stream):
            for index, frame in enumerate(self._decode(container, stream)):
                pixels = self._orientation.apply(_rgb(frame))
                if pixels.shape[:2] != (self.height, self.width):
                    raise ImageError(
                        f"{str(self.path)!r}: frame {index} has {pixels.shape[1]}x{pixels.shape[0]} pixels, but the "
                        f"first one {self.width}x{self.height}; split the video where its size changes"
                    )
                pts = frame.pts
                if pts is None or (last is not None and pts <= last):  # raw streams have no times
                    pts = 0 if last is None else last + max(1, round(1 / (self.rate * self.time_base)))
                last = pts
                yield Frame(
                    pixels, pts - round(self.origin / self.time_base), self.time_base, index, frame.duration or 0
                )

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        error = load_pyav().error
        packets, count = container.demux(stream), 0
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                count += packet.size > 0  # the last one asks for the remaining frames
                frames = packet.decode()
            except error.InvalidDataError:
                self.damaged += 1
                continue
            yield from frames
        if container.format.name == "avi":  # which does not fail where the file is cut off
            self.damaged += max(0, stream.frames - count)


def open_video(path: str | os.PathLike[str]) -> Video:
    """Open a video file and decode its first frame.

    The frames have the orientation in which players show them. Colours are converted with the colour matrix and range
    of the file. Without a matrix it is BT.709 from 1280x720 on, and BT.601 below.

    Times are the file's own. Those of transport streams (.ts), whose clock starts at an arbitrary time, start at 0.

    Args:
        path: File that FFmpeg can read. URLs are not supported.

    Returns:
        The opened video.

    Raises:
        ImageError: If PyAV is not installed, or the file has no video that can be decoded.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        video = Video(
            path, 0, 0, None, Fraction(1), Fraction(1), False, (), _Orientation(), (BT709, BT709), Fraction(0)
        )
        first = next(video._decode(container, stream), None)
        if first is None:
            raise ImageError(f"{str(path)!r}: no frame of the video can be decoded")
        matrix = first.side_data.get("DISPLAYMATRIX")
        orientation, turned = _Orientation.of_matrix(bytes(matrix) if matrix is not None else None)
        notices = [turned] if turned else []
        aspect = stream.sample_aspect_ratio
        if aspect and aspect != 1:
            notices.append(f"pixels of {aspect.numerator}:{aspect.denominator} are treated as square")
        if first.interlaced_frame:
            notices.append("interlaced frames are not deinterlaced")
        if first.color_trc in _WIDE_CURVES:
            notices.append(f"high dynamic range ({_WIDE_CURVES[first.color_trc]}) is shown without tone mapping")
        height, width = orientation.apply(np.empty((first.height, first.width, 0), np.uint8)).shape[:2]
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        primaries, curve = (
            BT709 if value in (0, _UNSPECIFIED) else value for value in (first.color_primaries, first.color_trc)
        )
        return Video(
            path,
            width,
            height,
            stream.frames or None,
            Fraction(rate),
            Fraction(stream.time_base),
            bool(container.streams.audio),
            tuple(notices),
            orientation,
            (primaries, curve),
            _origin(container),
        )


@dataclass(frozen=True)
class _Orientation:
    """One of the eight orientations. Rows and columns may be swapped first; then each axis may be reversed."""

    transposed: bool = False
    columns_reversed: bool = False
    rows_reversed: bool = False

    @classmethod
    def of_matrix(cls, matrix: bytes | None) -> tuple[_Orientation, str]:
        """Return the orientation of a display matrix (9 int32), and its problem or ""."""
        if matrix is None or len(matrix) != 36:
            return cls(), ""
        a, b, _, c, d = struct.unpack("=5i", matrix[:20])  # x' = a x + c y, y' = b x + d y
        if b == c == 0 and a and d:
            return cls(False, a < 0, d < 0), ""
        if a == d == 0 and b and c:
            return cls(True, c < 0, b < 0), ""
        return cls(), "a rotation other than by 90, 180 or 270 degrees is not applied"

    def apply(self, pixels: Pixels) -> Pixels:
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        if self.columns_reversed:
            pixels = pixels[:, ::-1]
        if self.rows_reversed:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)


_CLOCK_STARTS_ANYWHERE = 0x0200  # AVFMT_TS_DISCONT


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file, and yield its container and the video stream that players would show."""
    av = load_pyav()
    if not path.exists():
        raise ImageError(f"{str(path)!r}: no such file")
    try:
        # With this prefix, FFmpeg opens no URLs, not even those in a playlist.
        with av.open(f"file:{path}") as container:
            stream = container.streams.best("video")
            if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
                raise ImageError(f"{str(path)!r}: has no video")
            stream.thread_type, stream.thread_count = "AUTO", THREADS
            yield container, stream
    except av.error.FFmpegError as error:
        raise ImageError(f"{str(path)!r}: can't be read as a video: {error.strerror or error}") from None


def _origin(container: Any) -> Fraction:
    """Return the time of the start of a transport stream in seconds, and 0 for every other file."""
    if not container.format.flags & _CLOCK_STARTS_ANYWHERE:
        return Fraction(0)
    streams = (*container.streams.video, *container.streams.audio)
    return min(
        (each.start_time * each.time_base for each in streams if each.start_time is not None), default=Fraction(0)
    )


def _rgb(frame: Any) -> Pixels:
    """Return the stored pixels of a decoded frame, (H, W, 3) RGB."""
    options = {}
    if not frame.format.is_rgb and frame.colorspace == _UNSPECIFIED:
        hd = frame.height >= _HD_HEIGHT or frame.width >= _HD_WIDTH
        options["src_colorspace"] = "ITU709" if hd else "ITU601"
    pixels: Pixels = frame.to_ndarray(format="rgb24", **options)
    return pixels
