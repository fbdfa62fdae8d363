"""Frames of a camera, with a module that stands for OpenCV: no test machine has a camera."""

from __future__ import annotations

import sys
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from segnets.errors import ImageError
from segnets.inference.sources.camera import CameraSource


class FakeCamera:
    """Delivers `frames` frames; the first is blue in OpenCV's order of channels."""

    opened: list[FakeCamera]
    frames = 3

    def __init__(self, index: int) -> None:
        self.index, self.number, self.released = index, 0, False
        self.opened.append(self)

    def isOpened(self) -> bool:  # noqa: N802
        return self.index == 0

    def read(self) -> tuple[bool, object]:
        self.number += 1
        pixels = np.zeros((4, 6, 3), np.uint8)
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
