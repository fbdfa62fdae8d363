"""Frames of a camera, with a module that stands for OpenCV: no test machine has a camera."""

from __future__ import annotations

import os
import signal
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from segnets.errors import ImageError
from segnets.inference.sources.camera import CameraSource
from segnets.inference.video import open_video
from tests.inference.common import outputs_in, predict, random_image


class FakeCamera:
    """Delivers `frames` frames; the first is blue in OpenCV's order of channels."""

    opened: list[FakeCamera]
    frames = 3
    interrupted_at = 0

    def __init__(self, index: int) -> None:
        self.index, self.number, self.released = index, 0, False
        self.opened.append(self)

    def isOpened(self) -> bool:  # noqa: N802
        return self.index == 0

    def read(self) -> tuple[bool, object]:
        self.number += 1
        if self.number == self.interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)
        pixels = np.zeros((40, 56, 3), np.uint8)
        pixels[:, :, 0] = 256 - self.number
        return (True, pixels) if self.number <= self.frames else (False, None)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def cameras(monkeypatch: pytest.MonkeyPatch) -> list[FakeCamera]:
    opened: list[FakeCamera] = []
    monkeypatch.setattr(FakeCamera, "opened", opened, raising=False)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=FakeCamera))
    return opened


def test_frames_are_rgb_until_the_camera_stops(cameras: list[FakeCamera]) -> None:
    items = list(CameraSource(0))
    assert [item.image[0, 0].tolist() for item in items] == [[0, 0, 255], [0, 0, 254], [0, 0, 253]]
    assert [str(item.relative) for item in items] == [f"camera0/00000{number}" for number in (1, 2, 3)]
    assert items[0].source == "camera 0, frame 1"
    assert cameras[0].released


def test_the_camera_is_released_when_the_caller_stops(cameras: list[FakeCamera]) -> None:
    frames = iter(CameraSource(0))
    assert len(list(islice(frames, 2))) == 2
    assert not cameras[0].released
    del frames
    assert cameras[0].released


def test_a_camera_that_can_not_be_used_is_named(cameras: list[FakeCamera], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="camera 7: can't be opened"):
        next(iter(CameraSource(7)))
    monkeypatch.setattr(FakeCamera, "frames", 0)
    with pytest.raises(ImageError, match="camera 0: delivers no frame"):
        next(iter(CameraSource(0)))
    assert all(camera.released for camera in cameras)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImageError, match=r"pip install 'segnets\[camera\]'"):
        next(iter(CameraSource(0)))


def test_the_command_reads_a_camera_until_it_ends(
    cameras: list[FakeCamera], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(weights, "0", "--out", tmp_path / "out", "--save", "mask,overlay,csv") == 0
    assert "1 video of 3 frames, 0 failed" in capsys.readouterr().out
    files = [f"camera0/00000{number}.png" for number in (1, 2, 3)]
    assert set(outputs_in(tmp_path / "out")) == {*files, "camera0.overlay.mp4", "camera0.areas.csv"}
    shown = list(open_video(tmp_path / "out" / "camera0.overlay.mp4"))
    assert len(shown) == 3
    assert [frame.seconds for frame in shown] == sorted({frame.seconds for frame in shown})
    assert all(camera.released for camera in cameras)


def test_ctrl_c_ends_the_video_of_a_camera(
    cameras: list[FakeCamera],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(FakeCamera, "frames", 10_000)
    monkeypatch.setattr(FakeCamera, "interrupted_at", 5)
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)  # also where SIGINT is ignored
    assert predict(weights, "0", "--out", tmp_path / "out") == 0
    count = int(capsys.readouterr().out.split(" video of ")[1].split()[0])
    assert 5 <= count < 20
    assert len(list(open_video(tmp_path / "out" / "camera0.overlay.mp4"))) == count
    assert all(camera.released for camera in cameras)


def test_a_camera_that_is_missing_fails_with_one_line(
    cameras: list[FakeCamera], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(weights, "7", "--out", tmp_path / "out") == 1
    assert "camera 7: can't be opened" in capsys.readouterr().err


def test_a_file_named_like_a_camera_is_a_file(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cameras: list[FakeCamera]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(random_image()).save("0", "PNG")
    assert predict(weights, "0", "--out", "out", "--save", "mask") == 0
    assert list(outputs_in(tmp_path / "out")) == ["0.png"]
    assert not cameras
