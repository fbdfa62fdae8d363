"""The frames of a video as images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from PIL import Image

from segnets.inference.sources.base import Item
from segnets.inference.sources.camera import is_camera
from segnets.inference.video import Video

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg", ".m2v"),
        *(".ts", ".mts", ".m2ts", ".vob", ".ogv", ".3gp", ".3g2", ".mxf", ".y4m"),
    )
)
_DIGITS = 6


def is_video(path: str | os.PathLike[str]) -> bool:
    """Return whether a path has the suffix of a video, or is the name of a camera."""
    return PurePath(path).suffix.lower() in VIDEO_SUFFIXES or is_camera(path)


@dataclass
class VideoSource:
    """The frames of a video, one by one. Their outputs are named NAME/000001, NAME/000002, ...

    Attributes:
        video: The video.
    """

    video: Video

    def __iter__(self) -> Iterator[Item]:
        """Yield the frames in the order in which they are shown.

        Raises:
            ImageError: If the file can't be read, or its size changes.
        """
        digits = max(_DIGITS, len(str(self.video.frames or 0)))
        folder = PurePath(self.video.path.stem)
        for frame in self.video:
            number = frame.index + 1
            picture = Image.fromarray(frame.pixels)  # unlike an array, it is converted for gray networks
            yield Item(f"{self.video.path}, frame {number}", picture, folder / f"{number:0{digits}d}")
