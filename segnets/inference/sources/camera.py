"""The frames of a camera. OpenCV is imported when first used (extra `camera`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from segnets.errors import ImageError
from segnets.inference.sources.base import Item

_NAME = re.compile(r"camera:\d+")


def camera_item(index: int) -> Item:
    """Return a camera as one item of a job. Its frames are processed like those of a video."""
    return Item(f"camera:{index}", CameraSource(index), PurePath(f"camera{index}"))


def is_camera(source: str | os.PathLike[str]) -> bool:
    """Return whether this is the name of a `camera_item`."""
    return _NAME.fullmatch(os.fspath(source)) is not None


@dataclass
class CameraSource:
    """The frames of a camera, until it or the caller stops. Not tested with a real camera.

    Attributes:
        index: Number of the camera, from 0.
    """

    index: int = 0

    def __iter__(self) -> Iterator[Item]:
        """Yield the frames as the camera delivers them. The camera is released at the end.

        Raises:
            ImageError: If OpenCV is not installed, or the camera can't be opened or delivers no frame.
        """
        try:
            import cv2
        except ImportError:
            raise ImageError("a camera needs OpenCV, which is not installed: pip install 'segnets[camera]'") from None
        camera = cv2.VideoCapture(self.index)
        try:
            if not camera.isOpened():
                raise ImageError(
                    f"camera {self.index}: can't be opened; check its number, and that no other program uses it"
                )
            number = 0
            while True:
                found, pixels = camera.read()
                if not found:
                    break
                number += 1
                rgb = np.ascontiguousarray(pixels[:, :, ::-1])
                yield Item(
                    f"camera {self.index}, frame {number}", rgb, PurePath(f"camera{self.index}", f"{number:06d}")
                )
            if not number:
                raise ImageError(f"camera {self.index}: delivers no frame")
        finally:
            camera.release()
