"""Frames, times, orientation, colours and sound of videos, which PyAV makes here."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from segnets.errors import ImageError, OutputError
from segnets.inference.overlay_video import OverlayVideo
from segnets.inference.sources.video import VideoSource, is_video
from segnets.inference.video import Video, open_video
from tests.tiers import full_but

Pixels = npt.NDArray[np.uint8]
NTSC = Fraction(1, 30000)
STEADY = [1001 * i for i in range(45)]


def picture(height: int, width: int, step: int = 0) -> Pixels:
    """Four blocks of different colours, so that every orientation differs; `step` changes the last one."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 40)
    pixels[height // 2 :, : width // 2] = (40, 60, 210)
    pixels[height // 2 :, width // 2 :] = 40 + step % 100
    return pixels


def make(
    path: Path,
    times: Sequence[int] = STEADY,
    time_base: Fraction = NTSC,
    *,
    size: tuple[int, int] = (32, 48),
    codec: str = "libx264",
    audio: str = "",
    audio_start: int = 0,
    rotation: int = 0,
    flip: bool = False,
    colours: tuple[str, int, int] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """Write a video. `audio` is a codec, `colours` are swscale's matrix, its number in the file, and the range."""
    # Otherwise the time of the first frame is rounded to a millisecond.
    options = {"movie_timescale": str(math.lcm(time_base.denominator, 48000))} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=30)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        stream.max_b_frames = 2 if codec == "libx264" else 0
        if codec == "libx264":
            stream.options = {"crf": "8", "preset": "veryfast"}
        if rotation or flip:
            stream.set_display_rotation(rotation, hflip=flip)
        if aspect:
            stream.sample_aspect_ratio = aspect
        conversion: dict[str, Any] = {}
        if colours is not None:
            matrix, stream.colorspace, stream.color_range = colours
            conversion = {"dst_colorspace": matrix, "dst_color_range": colours[2]}
        sound = file.add_stream(audio, rate=48000, layout="mono") if audio else None
        if sound is not None:
            _sound(file, sound, int((times[-1] - times[0]) * time_base * 48000), audio_start)
        for step, pts in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(*size, step), format="rgb24")
            frame = frame.reformat(format="yuv420p", **conversion)
            frame.pts, frame.time_base = pts, time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def _sound(file: Any, stream: Any, samples: int, start: int) -> None:
    size = 1152 if stream.name == "libmp3lame" else 1024
    for first in range(0, samples, size):
        wave = (np.sin(np.arange(first, first + size) / 20) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), start + first
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def times_of(path: Path) -> list[Fraction]:
    with av.open(str(path)) as file:
        return [frame.pts * frame.time_base for frame in file.decode(video=0)]


def packets_of(path: Path, kind: str = "audio") -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as file:
        return [(p.pts * p.time_base, bytes(p)) for p in file.demux(**{kind: 0}) if p.dts is not None]


def copy(video: Video, path: Path) -> Path:
    with OverlayVideo(path, video) as overlay:
        for frame in video:
            overlay.write(frame, frame.pixels)
    return path


def close_to(pixels: Pixels, expected: Pixels, tolerance: int = 6) -> bool:
    """True if the centres of the four blocks have the same colours."""
    height, width = expected.shape[:2]
    assert pixels.shape == expected.shape
    points = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return all(np.abs(pixels[p].astype(int) - expected[p]).max() <= tolerance for p in points)


VARIABLE = [0, 512, 600, 9000, 9001, 20000, 50000]


@pytest.mark.parametrize(
    ("times", "time_base", "suffix"),
    [
        (STEADY, NTSC, ".mp4"),
        ([t + 45001 for t in STEADY], NTSC, ".mp4"),
        (VARIABLE, Fraction(1, 15360), ".mp4"),
        ([33 * i + i // 3 for i in range(40)], Fraction(1, 1000), ".mkv"),
        (list(range(20)), Fraction(1001, 30000), ".avi"),
    ],
    ids=["30000/1001", "starts late", "variable rate", "matroska", "avi"],
)
def test_times_are_exact(tmp_path: Path, times: list[int], time_base: Fraction, suffix: str) -> None:
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    path = make(tmp_path / f"in{suffix}", times, time_base, codec=codec, audio="aac" if suffix == ".mp4" else "")
    expected = [t * time_base for t in times]
    assert times_of(path) == expected  # the file is what the test means
    video = open_video(path)
    frames = list(video)
    assert [frame.seconds for frame in frames] == expected
    assert [frame.index for frame in frames] == list(range(len(times)))
    assert video.frames in (None, len(times))
    assert (video.height, video.width, video.damaged, video.notices) == (32, 48, 0, ())
    out = copy(video, tmp_path / "out.mp4")
    assert times_of(out) == expected
    again = open_video(out)
    assert again.frames == len(times)
    with av.open(str(out)) as file:
        assert all(packet.dts == packet.pts for packet in file.demux(video=0))
    last = next(reversed(list(again)))
    assert last.duration * last.time_base == frames[-1].duration * frames[-1].time_base
    assert sorted(tmp_path.iterdir()) == sorted([path, out])


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("flip", [False, True])
def test_frames_are_displayed_as_players_do(tmp_path: Path, rotation: int, flip: bool) -> None:
    path = make(tmp_path / "in.mp4", STEADY[:3], rotation=rotation, flip=flip)
    expected = np.rot90(picture(32, 48), rotation // 90)  # both count counterclockwise
    expected = expected[:, ::-1] if flip else expected
    video = open_video(path)
    assert (video.height, video.width) == expected.shape[:2]
    assert close_to(next(iter(video)).pixels, expected)
    again = open_video(copy(video, tmp_path / "out.mp4"))
    assert close_to(next(iter(again)).pixels, expected)
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert next(file.decode(video=0)).rotation == 0


def test_another_angle_is_said(tmp_path: Path) -> None:
    video = open_video(make(tmp_path / "in.mp4", STEADY[:2], rotation=45))
    assert video.notices == ("a rotation other than by 90, 180 or 270 degrees is not applied",)
    assert (video.height, video.width) == (32, 48)


@pytest.mark.parametrize(
    "colours",
    [("ITU709", 1, 1), ("ITU601", 6, 1), ("ITU709", 1, 2), ("ITU601", 5, 2)],
    ids=["709", "601", "709 full range", "601 full range"],
)
def test_colours_follow_the_file(tmp_path: Path, colours: tuple[str, int, int]) -> None:
    video = open_video(make(tmp_path / "in.mp4", STEADY[:2], colours=colours))
    assert close_to(next(iter(video)).pixels, picture(32, 48))
    again = open_video(copy(video, tmp_path / "out.mp4"))
    assert close_to(next(iter(again)).pixels, picture(32, 48), tolerance=9)


@pytest.mark.parametrize(("size", "matrix"), [((32, 48), "ITU601"), ((16, 1280), "ITU709")])
def test_colours_without_a_matrix_are_those_of_players(tmp_path: Path, size: tuple[int, int], matrix: str) -> None:
    video = open_video(make(tmp_path / "in.mp4", STEADY[:2], size=size, colours=(matrix, 2, 1)))
    assert close_to(next(iter(video)).pixels, picture(*size))


@pytest.mark.parametrize("size", [(33, 48), (32, 47), (35, 37)])
def test_odd_sizes_are_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    source = make(tmp_path / "in.mp4", STEADY[:3])
    like = open_video(source)
    video = Video(**{**vars_of(like), "height": size[0], "width": size[1]})
    with OverlayVideo(tmp_path / "out.mp4", video) as overlay:
        for frame in like:
            overlay.write(frame, picture(*size))
    again = open_video(tmp_path / "out.mp4")
    assert (again.height, again.width) == size
    assert close_to(next(iter(again)).pixels, picture(*size))


def vars_of(video: Video) -> dict[str, Any]:
    return {name: value for name, value in vars(video).items() if name != "damaged"}


@pytest.mark.parametrize(("codec", "suffix"), [("aac", ".mp4"), ("libmp3lame", ".mkv"), ("ac3", ".mkv")])
def test_sound_is_copied(tmp_path: Path, codec: str, suffix: str) -> None:
    path = make(tmp_path / f"in{suffix}", [t + 45000 for t in STEADY], audio=codec, audio_start=72000)
    video = open_video(path)
    assert video.has_audio
    out = copy(video, tmp_path / "out.mp4")
    wanted, got = packets_of(path), packets_of(out)
    assert [data for _, data in got] == [data for _, data in wanted]
    unit = Fraction(1, 1000)  # matroska's
    assert max(abs(a - b) for (a, _), (b, _) in zip(wanted, got, strict=True)) < unit


def test_sound_that_mp4_can_not_hold_is_said(tmp_path: Path) -> None:
    video = open_video(make(tmp_path / "in.avi", range(30), Fraction(1, 30), codec="mpeg4", audio="adpcm_ms"))
    with OverlayVideo(tmp_path / "out.mp4", video) as overlay:
        assert overlay.notices == ("sound (adpcm_ms) can't be stored in MP4 and is left out",)
        for frame in video:
            overlay.write(frame, frame.pixels)
    assert not open_video(tmp_path / "out.mp4").has_audio


def test_pixels_that_are_no_squares_are_said(tmp_path: Path) -> None:
    video = open_video(make(tmp_path / "in.mp4", STEADY[:2], aspect=Fraction(4, 3)))
    assert video.notices == ("pixels of 4:3 are treated as square",)


def write_for_ever(video: Video, path: Path) -> None:
    frames = list(video)
    with OverlayVideo(path, video) as overlay:
        for index in count():
            frame = frames[index % len(frames)]
            overlay.write(replace(frame, pts=1001 * index), frame.pixels)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_killed_process_leaves_a_file_that_plays(tmp_path: Path) -> None:
    video = open_video(make(tmp_path / "in.mp4", audio="aac"))
    out, partial = tmp_path / "out.mp4", tmp_path / "out.partial.mp4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads, which it does not use
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        write_for_ever(video, out)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (partial.exists() and partial.stat().st_size > 10_000):
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not out.exists()
    times = [frame.seconds for frame in open_video(partial)]
    assert len(times) >= 30
    assert times == [1001 * i * NTSC for i in range(len(times))]
    assert open_video(partial).has_audio


def test_the_partial_file_plays_up_to_the_last_seconds(tmp_path: Path) -> None:
    video = open_video(make(tmp_path / "in.mp4", audio="aac"))
    frames = list(video)
    with OverlayVideo(tmp_path / "out.mp4", video) as overlay:
        for index in range(150):
            frame = frames[index % len(frames)]
            overlay.write(replace(frame, pts=1001 * index), frame.pixels)
        times = [frame.seconds for frame in open_video(overlay.partial)]
    assert len(times) >= 90
    assert times == [1001 * i * NTSC for i in range(len(times))]


def test_a_failed_block_keeps_what_was_written(tmp_path: Path) -> None:
    video = open_video(make(tmp_path / "in.mp4"))

    def write_ten() -> None:
        with OverlayVideo(tmp_path / "out.mp4", video) as overlay:
            for frame in video:
                if frame.index == 10:
                    raise KeyError
                overlay.write(frame, frame.pixels)

    with pytest.raises(KeyError):
        write_ten()
    assert len(times_of(tmp_path / "out.partial.mp4")) == 10
    assert not (tmp_path / "out.mp4").exists()
    copy(video, tmp_path / "out.mp4")
    assert not (tmp_path / "out.partial.mp4").exists()


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    video = open_video(make(tmp_path / "in.mp4", audio="aac"))
    first, second = (copy(video, tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4"))
    assert first == second


def test_frames_are_items(tmp_path: Path) -> None:
    path = make(tmp_path / "a clip.mp4", STEADY[:3])
    items = list(VideoSource(open_video(path)))
    assert [str(item.relative) for item in items] == ["a clip/000001", "a clip/000002", "a clip/000003"]
    assert items[1].source == f"{path}, frame 2"
    assert items[1].image.size == (48, 32)
    assert is_video("x.MOV")
    assert not is_video("x.gif")


def test_damaged_packets_are_counted(tmp_path: Path) -> None:
    path = make(tmp_path / "in.mp4", codec="mpeg4")
    data = bytearray(path.read_bytes())
    (_, packet) = packets_of(path, "video")[20]
    start = bytes(data).index(packet)
    data[start : start + len(packet)] = b"\xff" * len(packet)
    path.write_bytes(data)
    video = open_video(path)
    assert len(list(video)) + video.damaged == len(STEADY)
    assert video.damaged == 1


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_missing_packets_are_counted(tmp_path: Path, suffix: str) -> None:
    whole = make(tmp_path / f"whole{suffix}", range(100), Fraction(1, 30), codec="mpeg4")
    path = tmp_path / f"start{suffix}"
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 4 // 5])
    video = open_video(path)
    assert 0 < len(list(video)) < 100
    assert video.damaged > 0
    if suffix == ".avi":
        assert len(list(video)) + video.damaged == 100


def test_transport_streams_start_at_zero(tmp_path: Path) -> None:
    path = make(tmp_path / "in.ts", [t + 3_000_000 for t in STEADY], audio="aac", audio_start=4_800_000)
    written = times_of(path)
    assert written[0] > 90
    video = open_video(path)
    times = [frame.seconds for frame in video]
    origin = written[0] - times[0]
    assert times == [time - origin for time in written]
    assert times[0] < 1
    out = copy(video, tmp_path / "out.mp4")
    assert times_of(out) == times
    wanted, got = packets_of(path), packets_of(out)
    header = 7  # of each packet in a transport stream
    assert [data for _, data in got] == [data[header:] for _, data in wanted]
    assert max(abs(a - origin - b) for (a, _), (b, _) in zip(wanted, got, strict=True)) < Fraction(1, 1000)


def test_a_video_whose_size_changes_is_refused(tmp_path: Path) -> None:
    small = make(tmp_path / "small.ts", STEADY[:5]).read_bytes()
    large = make(tmp_path / "large.ts", [t + 40000 for t in STEADY[:5]], size=(48, 64)).read_bytes()
    (tmp_path / "both.ts").write_bytes(small + large)
    with pytest.raises(ImageError, match="frame 5 has 64x48 pixels, but the first one 48x32"):
        list(open_video(tmp_path / "both.ts"))


def test_names_are_taken_literally(tmp_path: Path) -> None:
    path = make(tmp_path / "in.mp4", STEADY[:3]).rename(tmp_path / "a:b %03d é?\n x.mp4")
    assert len(list(open_video(copy(open_video(path), tmp_path / "c:%d ü.mp4")))) == 3


def test_other_files_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is no video")
    with pytest.raises(ImageError, match=r"bad\.mp4'.*can't be read as a video: Invalid data"):
        open_video(bad)
    with pytest.raises(ImageError, match="no such file"):
        open_video("http://localhost/a.mp4")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ImageError, match="can't be read as a video"):
        open_video(playlist)
    whole = make(tmp_path / "whole.mp4")
    bad.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(ImageError, match="can't be read as a video"):
        open_video(bad)
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        _sound(file, file.add_stream("aac", rate=48000, layout="mono"), 4096, 0)
    with pytest.raises(ImageError, match="has no video"):
        open_video(tmp_path / "sound.mp4")


def test_bad_outputs_are_refused(tmp_path: Path) -> None:
    video = open_video(make(tmp_path / "in.mp4", STEADY[:2]))
    frame = next(iter(video))
    with pytest.raises(OutputError, match=r"ends with \.mp4"):
        OverlayVideo(tmp_path / "out.avi", video)
    with pytest.raises(OutputError, match="does not exist"), OverlayVideo(tmp_path / "no" / "out.mp4", video):
        pass
    with pytest.raises(ValueError, match=r"expected \(32, 48, 3\) uint8, got \(31, 48, 3\)"):  # noqa: SIM117
        with OverlayVideo(tmp_path / "out.mp4", video) as overlay:
            overlay.write(frame, frame.pixels[1:])
    (tmp_path / "out.mp4").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"), OverlayVideo(tmp_path / "out.mp4", video, overwrite=False):
        pass
    assert (tmp_path / "out.mp4").read_bytes() == b"mine"


def test_a_file_that_can_not_grow_is_one_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    video = open_video(make(tmp_path / "in.mp4", audio="aac"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"out\.partial\.mp4'.*size limit"):
            copy(video, tmp_path / "out.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_no_frame_is_no_file(tmp_path: Path) -> None:
    video = open_video(make(tmp_path / "in.mp4", STEADY[:2], audio="aac"))
    with pytest.raises(OutputError, match="because no frames were added"), OverlayVideo(tmp_path / "out.mp4", video):
        pass
    with pytest.raises(KeyError), OverlayVideo(tmp_path / "out.mp4", video):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_pyav_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError, match=r"pip install 'segnets\[video\]'"):
        open_video(tmp_path / "x.mp4")


def resident() -> int:
    """Memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("frames", full_but([300], [300, 10_000]))
def test_memory_is_bounded(tmp_path: Path, frames: int) -> None:
    video = open_video(make(tmp_path / "in.mp4", [1001 * i for i in range(frames)], audio="aac"))
    before = 0
    with OverlayVideo(tmp_path / "out.mp4", video) as overlay:
        for frame in video:
            overlay.write(frame, frame.pixels)
            if frame.index == 100:  # the decoder, the encoder and the file have their buffers by now
                before = resident()
        assert resident() - before < 20 << 20
    assert open_video(tmp_path / "out.mp4").frames == frames
