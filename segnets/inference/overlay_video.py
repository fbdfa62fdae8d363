"""Write a video with the times and sound of another video. PyAV is imported when first used (extra `video`)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from segnets.errors import OutputError
from segnets.files import cannot_write, check_writable_target, publish
from segnets.inference._pyav import BT709, THREADS, load_pyav
from segnets.inference.camera_video import CameraVideo
from segnets.inference.video import Frame, Pixels, Video

if TYPE_CHECKING:
    from typing import Self

_LIMITED_RANGE = 1
_LARGEST_SCALE = (1 << 31) - 1
_PLAYS_AT_ANY_TIME = {
    # A fragment for each key frame, and an ordinary file at the end. Without delay_moov, sound that starts before time
    # 0, as all AAC does, would move the frames.
    "movflags": "hybrid_fragmented+delay_moov",
    "flush_packets": "1",
    # Time that frames wait for sound that has ended earlier, in microseconds.
    "max_interleave_delta": "1000000",
}


class OverlayVideo:
    """An MP4 file (H.264) with the times and the sound of another video.

    Every frame keeps its time exactly. Sound is copied without encoding it again. Frames are stored as they are
    displayed, without a rotation for the player to apply. Frames with an odd width or height keep their size: their
    colours are stored at full resolution (yuv444p), which some players do not support.

    The file has the name NAME.partial.mp4 until it is complete. It plays at any time, up to about the last two seconds,
    even if the process was killed. If the `with` block raises, the partial file is kept.

    Args:
        path: File to write, NAME.mp4.
        like: Video that provides the times, size and sound.
        overwrite: Whether to replace an existing file.

    Attributes:
        notices: Sound that could not be copied.

    Raises:
        ImageError: If PyAV is not installed.
        OutputError: If the file can't be written.
    """

    def __init__(self, path: str | os.PathLike[str], like: Video | CameraVideo, *, overwrite: bool = True) -> None:
        self.path, self._like, self._overwrite = Path(path), like, overwrite
        if self.path.suffix.lower() != ".mp4":
            raise OutputError(f"{str(self.path)!r}: expected a name that ends with .mp4, the only supported format")
        self.partial = self.path.with_name(f"{self.path.stem}.partial.mp4")
        self.notices: tuple[str, ...] = ()
        self._durations: dict[int, int] = {}
        self._frames = 0

    def __enter__(self) -> Self:
        """Create the partial file."""
        av = load_pyav()
        check_writable_target(self.path, overwrite=self._overwrite)
        check_writable_target(self.partial)
        self._audio: _AudioCopy | _NoAudio
        if isinstance(self._like, CameraVideo):
            self._audio = _NoAudio(self._like.time_base.denominator)
        else:
            self._audio = _AudioCopy(self._like)
        options = {**_PLAYS_AT_ANY_TIME, "movie_timescale": str(self._audio.time_scale)}
        with self._errors():
            self._file = av.open(f"file:{self.partial}", "w", format="mp4", options=options)
            try:
                self._stream = self._add_stream(av)
                self._audio.add_streams(self._file)
            except BaseException:
                self._audio.close()
                self._file.close()
                raise
        self.notices = self._audio.notices
        return self

    def _add_stream(self, av: ModuleType) -> Any:
        like = self._like
        if "libx264" not in av.codec.codecs_available:
            raise OutputError("this PyAV has no H.264 encoder (libx264); install PyPI's: pip install av")
        stream = self._file.add_stream("libx264", rate=like.rate)
        stream.width, stream.height = like.width, like.height
        stream.pix_fmt = "yuv420p" if like.width % 2 == like.height % 2 == 0 else "yuv444p"
        stream.time_base = stream.codec_context.time_base = like.time_base
        stream.options = {"crf": "18", "preset": "veryfast"}
        stream.gop_size = min(60, max(1, round(like.rate)))  # one second
        stream.max_b_frames = 0  # with them, players that ignore edit lists would show frames late
        stream.thread_count = THREADS
        stream.colorspace, stream.color_range = BT709, _LIMITED_RANGE
        stream.color_primaries, stream.color_trc = like.colour
        return stream

    def write(self, frame: Frame, pixels: Pixels) -> None:
        """Add a frame.

        Args:
            frame: Frame of the other video, which provides the time.
            pixels: Picture of shape (H, W, 3), uint8, RGB, of the same size as `frame`.

        Raises:
            ValueError: If `pixels` has the wrong shape or dtype.
            OutputError: If the file can't be written.
        """
        av, expected = load_pyav(), (self._like.height, self._like.width, 3)
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
            self._frames += 1

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._file.mux(packet)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file and rename it to its final name, or keep the partial file if the block raised."""
        try:
            with self._errors():
                try:
                    if self._frames:
                        self._mux(self._stream.encode(None))
                    if kind is None and self._frames:
                        self._audio.copy_until(None)
                finally:
                    self._audio.close()
                    self._file.close()
        except OutputError:
            if kind is None:
                raise
            return  # report the block's own error
        if kind is None and not self._frames:
            raise OutputError(f"{str(self.path)!r}: not written, because no frames were added")
        if kind is None:
            with self.partial.open("rb") as file:
                os.fsync(file.fileno())
            publish(self.partial, self.path, overwrite=self._overwrite)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except load_pyav().error.FFmpegError as error:
            if isinstance(error, OSError):
                raise cannot_write(self.partial, error) from None
            raise OutputError(f"{str(self.partial)!r}: can't be written: {error.strerror or error}") from None


class _NoAudio:
    """Stand-in for `_AudioCopy` if there is no sound to copy."""

    notices: tuple[str, ...] = ()

    def __init__(self, time_scale: int) -> None:
        self.time_scale = time_scale

    def add_streams(self, target: Any) -> None:
        pass

    def copy_until(self, time: Fraction | None) -> None:
        pass

    def close(self) -> None:
        pass


class _AudioCopy:
    """Copy of the packets of all audio streams of a file, in step with the frames."""

    def __init__(self, video: Video) -> None:
        self._origin = video.origin
        self._streams: dict[int, tuple[Any, Any]] = {}  # stream of the copy, and filter of the packets
        self._target: Any = None
        self._source = load_pyav().open(f"file:{video.path}")
        # Start times are rounded to 1 / time_scale seconds, so time_scale must be a multiple of all units'
        # denominators.
        units = [video.time_base, *(stream.time_base for stream in self._source.streams.audio)]
        scale = math.lcm(*(unit.denominator for unit in units))
        self.time_scale = scale if scale <= _LARGEST_SCALE else video.time_base.denominator
        self.notices: tuple[str, ...] = ()

    def add_streams(self, target: Any) -> None:
        """Add the streams that MP4 can store to the file."""
        self._target, left_out = target, []
        for stream in self._source.streams.audio:
            codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
            if codec in target.supported_codecs:
                self._streams[stream.index] = (target.add_stream_from_template(stream), _filter(stream))
            else:
                left_out.append(codec)
        self.notices = tuple(f"sound ({name}) can't be stored in MP4 and is left out" for name in left_out)
        wanted = [self._source.streams[index] for index in self._streams]
        self._packets = self._source.demux(wanted) if wanted else iter(())
        self._next = self._advance()

    def _advance(self) -> Any:
        try:
            return next((packet for packet in self._packets if packet.dts is not None), None)
        except load_pyav().error.InvalidDataError:  # a truncated file
            return None

    def copy_until(self, time: Fraction | None) -> None:
        """Copy the packets up to this time in seconds, or all that remain."""
        while self._next is not None and (time is None or self._next.dts * self._next.time_base <= time + self._origin):
            packet = self._next
            shift = round(self._origin / packet.time_base)
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            stream, bitstream_filter = self._streams[packet.stream.index]
            for each in [packet] if bitstream_filter is None else bitstream_filter.filter(packet):
                each.stream = stream
                self._target.mux(each)
            self._next = self._advance()

    def close(self) -> None:
        self._source.close()


def _filter(stream: Any) -> Any:
    """Return the filter that packets of this stream need in MP4, or None.

    Transport streams describe AAC in every packet; MP4 describes it once.
    """
    if stream.codec_context.name != "aac" or stream.codec_context.extradata:
        return None
    return load_pyav().bitstream.BitStreamFilterContext("aac_adtstoasc", stream)
