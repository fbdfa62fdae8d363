"""Read the frames of a video, and write an overlay video with the same times and sound.

PyAV is imported when first used (extra `video`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segnets.errors import ImageError, OutputError
from segnets.files import cannot_write, check_writable_target, publish

if TYPE_CHECKING:
    from typing import Self

Pixels = npt.NDArray[np.uint8]

# Threads of one decoder or encoder. Each holds a frame.
_THREADS = min(4, os.cpu_count() or 1)

# Numbers of ITU-T H.273, which FFmpeg uses too.
_BT709, _UNSPECIFIED, _BT2020 = 1, 2, (9, 10)
_WIDE_CURVES = {16: "PQ", 18: "HLG"}
_LIMITED_RANGE = 1

# Of the height or width of a video without a colour matrix, from which players assume BT.709 instead of BT.601.
_HD_HEIGHT, _HD_WIDTH = 720, 1280


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, in display orientation.
        pts: Time at which it is shown, in units of `time_base`.
        time_base: Unit of `pts` in seconds.
        index: Number of the frame, from 0.
        duration: How long it is shown, in units of `time_base`; 0 if the file does not say.
    """

    pixels: Pixels
    pts: int
    time_base: Fraction
    index: int
    duration: int = 0

    @property
    def seconds(self) -> Fraction:
        """Time at which the frame is shown."""
        return self.pts * self.time_base


@dataclass
class Video:
    """A video file. Iterating over it decodes its frames one by one, each time from the start.

    Attributes:
        path: The file.
        width: Width of the displayed frames in pixels.
        height: Height of the displayed frames in pixels.
        frames: Number of frames, or None if the file does not say.
        rate: Mean number of frames per second.
        time_base: Unit of the times in seconds.
        has_audio: Whether there is sound.
        notices: What is displayed in another way than the file asks for.
        damaged: Number of packets that could not be decoded and were left out, counted while iterating.
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
    _colour: tuple[int, int] = field(repr=False)  # primaries and transfer curve

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in the order in which they are shown.

        Raises:
            ImageError: If the file can't be read, or a frame has another size than the first one.
        """
        self.damaged = 0
        last: int | None = None
        with _opened(self.path) as (container, stream):
            for index, frame in enumerate(self._decode(container, stream)):
                pixels = self._orientation.apply(_rgb(frame))
                if pixels.shape[:2] != (self.height, self.width):
                    raise ImageError(
                        f"{str(self.path)!r}: frame {index} has {pixels.shape[1]}x{pixels.shape[0]} pixels and the "
                        f"first one {self.width}x{self.height}; split the video where its size changes"
                    )
                pts = frame.pts
                if pts is None or (last is not None and pts <= last):  # raw streams have no times
                    pts = 0 if last is None else last + max(1, round(1 / (self.rate * self.time_base)))
                last = pts
                yield Frame(pixels, pts, self.time_base, index, frame.duration or 0)

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        error = _pyav().error
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
            except error.InvalidDataError:
                self.damaged += 1
                continue
            yield from frames


def open_video(path: str | os.PathLike[str]) -> Video:
    """Open a video file, and decode its first frame.

    The frames have the orientation in which players show them. Colours are converted with the colour matrix and range
    of the file. Without a matrix it is BT.709 from 1280x720 on, and BT.601 below.

    Args:
        path: File that FFmpeg can read. Addresses are not opened.

    Raises:
        ImageError: If PyAV is not installed, or the file has no video that can be decoded.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        video = Video(path, 0, 0, None, Fraction(1), Fraction(1), False, (), _Orientation(), (_BT709, _BT709))
        first = next(video._decode(container, stream), None)
        if first is None:
            raise ImageError(f"{str(path)!r}: no frame of the video can be decoded")
        matrix = first.side_data.get("DISPLAYMATRIX")
        orientation, turned = _Orientation.of_matrix(bytes(matrix) if matrix is not None else None)
        notices = [turned] if turned else []
        aspect = stream.sample_aspect_ratio
        if aspect and aspect != 1:
            notices.append(f"pixels of {aspect.numerator}:{aspect.denominator} are taken as squares")
        if first.interlaced_frame:
            notices.append("interlaced frames are taken as they are")
        if first.color_trc in _WIDE_CURVES:
            notices.append(f"high dynamic range ({_WIDE_CURVES[first.color_trc]}) is shown without tone mapping")
        height, width = orientation.apply(np.empty((first.height, first.width, 0), np.uint8)).shape[:2]
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        primaries, curve = (
            _BT709 if value in (0, _UNSPECIFIED) else value for value in (first.color_primaries, first.color_trc)
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
        )


class OverlayVideo:
    """An MP4 file (H.264) with the times and the sound of another video.

    Every frame keeps its time exactly. Sound is copied without encoding it again. Frames are stored as they are
    displayed, without a rotation for the player to apply. Frames with an odd width or height keep their size: their
    colours are stored at full resolution (yuv444p), which some players do not support.

    The file has the name NAME.partial.mp4 until it is complete. It plays at any time, up to about the last second, also
    if the process was killed. If the `with` block raises, the partial file is kept.

    Args:
        path: File to write, NAME.mp4.
        like: Video whose times, size and sound are taken.
        overwrite: Whether to replace an existing file.

    Attributes:
        notices: Sound that could not be copied.

    Raises:
        ImageError: If PyAV is not installed.
        OutputError: If the file can't be written.
    """

    def __init__(self, path: str | os.PathLike[str], like: Video, *, overwrite: bool = True) -> None:
        self.path, self._like, self._overwrite = Path(path), like, overwrite
        if self.path.suffix.lower() != ".mp4":
            raise OutputError(f"{str(self.path)!r}: expected a name that ends with .mp4, the only format written")
        self.partial = self.path.with_name(f"{self.path.stem}.partial.mp4")
        self.notices: tuple[str, ...] = ()
        self._durations: dict[int, int] = {}

    def __enter__(self) -> Self:
        """Create the partial file."""
        av = _pyav()
        check_writable_target(self.path, overwrite=self._overwrite)
        check_writable_target(self.partial)
        like = self._like
        with self._errors():
            self._file = av.open(f"file:{self.partial}", "w", format="mp4", options=_PLAYS_AT_ANY_TIME)
            try:
                self._stream = self._add_stream(av)
                self._audio = _AudioCopy(like.path, self._file)
            except BaseException:
                self._file.close()
                raise
        self.notices = self._audio.notices
        return self

    def _add_stream(self, av: ModuleType) -> Any:
        like = self._like
        if "libx264" not in av.codec.codecs_available:
            raise OutputError("this PyAV has no H.264 encoder (libx264); install the one of PyPI: pip install av")
        stream = self._file.add_stream("libx264", rate=like.rate)
        stream.width, stream.height = like.width, like.height
        stream.pix_fmt = "yuv420p" if like.width % 2 == like.height % 2 == 0 else "yuv444p"
        stream.time_base = stream.codec_context.time_base = like.time_base
        stream.options = {"crf": "18", "preset": "veryfast"}
        stream.gop_size = min(60, max(1, round(like.rate)))  # one second
        stream.max_b_frames = 0  # frames are stored in the order in which they are shown
        stream.thread_count = _THREADS
        stream.colorspace, stream.color_range = _BT709, _LIMITED_RANGE
        stream.color_primaries, stream.color_trc = like._colour
        return stream

    def write(self, frame: Frame, pixels: Pixels) -> None:
        """Add a frame.

        Args:
            frame: Frame of the other video, whose time the new one gets.
            pixels: (H, W, 3) uint8, RGB, of the size of that frame.

        Raises:
            ValueError: If `pixels` has another shape or dtype.
            OutputError: If the file can't be written.
        """
        av, expected = _pyav(), (self._like.height, self._like.width, 3)
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise ValueError(f"pixels: expected {expected} uint8, got {pixels.shape} {pixels.dtype}")
        with self._errors():
            self._audio.copy_until(frame.seconds)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            space = av.video.reformatter.Colorspace.ITU709
            picture = picture.reformat(
                format=self._stream.pix_fmt, dst_colorspace=space, dst_color_range=_LIMITED_RANGE
            )
            picture.pts, picture.time_base = frame.pts, frame.time_base
            if frame.duration:
                self._durations[frame.pts] = frame.duration
            self._mux(self._stream.encode(picture))

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._file.mux(packet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the file and give it its name, or keep the partial file if the block raised."""
        try:
            with self._errors():
                try:
                    self._mux(self._stream.encode(None))
                    if kind is None:
                        self._audio.copy_until(None)
                finally:
                    self._audio.close()
                    self._file.close()
        except OutputError:
            if kind is None:
                raise
            return  # the error of the block is the one to report
        if kind is None:
            publish(self.partial, self.path, overwrite=self._overwrite)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except _pyav().error.FFmpegError as error:
            if isinstance(error, OSError):
                raise cannot_write(self.partial, error) from None
            raise OutputError(f"{str(self.partial)!r}: can't be written: {error.strerror or error}") from None


class _AudioCopy:
    """Copies the packets of all audio streams of a file, in step with the frames."""

    def __init__(self, path: Path, target: Any) -> None:
        self._target, self._streams = target, {}
        self._source = _pyav().open(f"file:{path}", options=_LOCAL)
        left_out = []
        for stream in self._source.streams.audio:
            if stream.codec_context.name in target.supported_codecs:
                self._streams[stream.index] = target.add_stream_from_template(stream)
            else:
                left_out.append(stream.codec_context.name)
        self.notices = tuple(f"sound ({name}) can't be stored in MP4 and is left out" for name in left_out)
        wanted = [self._source.streams[index] for index in self._streams]
        self._packets = self._source.demux(wanted) if wanted else iter(())
        self._next = self._advance()

    def _advance(self) -> Any:
        try:
            return next((packet for packet in self._packets if packet.dts is not None), None)
        except _pyav().error.InvalidDataError:  # a truncated file
            return None

    def copy_until(self, time: Fraction | None) -> None:
        """Copy the packets up to this time in seconds, or all that remain."""
        while self._next is not None and (time is None or self._next.dts * self._next.time_base <= time):
            self._next.stream = self._streams[self._next.stream.index]
            self._target.mux(self._next)
            self._next = self._advance()

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True)
class _Orientation:
    """One of the eight orientations: first rows and columns are exchanged, then each may be reversed."""

    transposed: bool = False
    columns_reversed: bool = False
    rows_reversed: bool = False

    @classmethod
    def of_matrix(cls, matrix: bytes | None) -> tuple[_Orientation, str]:
        """Return the orientation of a display matrix (9 int32), and what is wrong with it or ""."""
        if matrix is None or len(matrix) != 36:
            return cls(), ""
        a, b, _, c, d = struct.unpack("=5i", matrix[:20])  # x' = a x + c y, y' = b x + d y
        if b == c == 0 and a and d:
            return cls(False, a < 0, d < 0), ""
        if a == d == 0 and b and c:
            return cls(True, c < 0, b < 0), ""
        return cls(), "a rotation by other than 90, 180 or 270 degrees is not applied"

    def apply(self, pixels: Pixels) -> Pixels:
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        if self.columns_reversed:
            pixels = pixels[:, ::-1]
        if self.rows_reversed:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)


_PLAYS_AT_ANY_TIME = {
    # A fragment for each key frame, and an ordinary file at the end. Without delay_moov, sound that starts before time
    # 0, as all AAC does, would move the frames.
    "movflags": "hybrid_fragmented+frag_keyframe+default_base_moof+delay_moov",
    "flush_packets": "1",
    # How long frames wait for sound that has ended earlier, in microseconds.
    "max_interleave_delta": "1000000",
}

# Playlists may name other files, but no addresses.
_LOCAL = {"protocol_whitelist": "file"}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file, and yield its container and the video stream that players would show."""
    av = _pyav()
    if not path.exists():
        raise ImageError(f"{str(path)!r}: no such file")
    try:
        with av.open(f"file:{path}", options=_LOCAL) as container:
            stream = container.streams.best("video")
            if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
                raise ImageError(f"{str(path)!r}: has no video")
            stream.thread_type, stream.thread_count = "AUTO", _THREADS
            yield container, stream
    except av.error.FFmpegError as error:
        raise ImageError(f"{str(path)!r}: can't be read as a video: {error.strerror or error}") from None


def _rgb(frame: Any) -> Pixels:
    """Return the stored pixels of a decoded frame, (H, W, 3) RGB."""
    options = {}
    if not frame.format.is_rgb and frame.colorspace == _UNSPECIFIED:
        hd = frame.height >= _HD_HEIGHT or frame.width >= _HD_WIDTH
        options["src_colorspace"] = "ITU709" if hd else "ITU601"
    pixels: Pixels = frame.to_ndarray(format="rgb24", **options)
    return pixels


def _pyav() -> ModuleType:
    try:
        return import_module("av")
    except ImportError:
        raise ImageError("video needs PyAV, which is not installed: pip install 'segnets[video]'") from None
