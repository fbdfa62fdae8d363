"""Image sources in Python code: paths, images in memory, and lists and generators of these."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from segnets.inference.sources.base import Item
from segnets.inference.sources.camera import CameraSource
from segnets.inference.sources.files import FileSource
from segnets.inference.sources.video import VideoSource, is_video
from segnets.inference.video import open_video


def items_of(sources: Any, *, recursive: bool = False) -> Iterator[Item]:
    """Yield the images of any source, in order and one at a time.

    Args:
        sources: A path to an image or a video, a folder or a pattern, the number of a camera, the bytes of an image
            file, a file object, a Pillow image, an array or a tensor; or an iterable of these.
        recursive: Whether to search subfolders too.

    Yields:
        The images, not decoded yet.

    Raises:
        ImageError: If a folder can't be read, or a folder or a pattern has no images.
        ImageError: If a video or a camera can't be opened or read.
        TypeError: If a source is none of these.
    """
    yield from _Numbered(recursive).items(sources)


class _Numbered:
    """Iterator over nested sources that numbers the images in memory."""

    def __init__(self, recursive: bool) -> None:
        self._recursive, self._count = recursive, 0

    def items(self, source: Any) -> Iterator[Item]:
        if isinstance(source, Item):
            yield source
        elif isinstance(source, int) and not isinstance(source, bool):
            yield from CameraSource(source)
        elif isinstance(source, str | os.PathLike) and is_video(source):
            yield from VideoSource(open_video(source))
        elif isinstance(source, str | os.PathLike):
            for item in FileSource([source], self._recursive):
                self._count += 1
                yield item
        elif _is_image(source):
            self._count += 1
            yield Item(f"image {self._count}", source)
        elif isinstance(source, Iterable):
            for each in source:
                yield from self.items(each)
        else:
            raise TypeError(
                f"sources: expected paths, bytes, file objects, Pillow images, arrays (H, W, K), tensors, or an "
                f"iterable of these, got {type(source).__name__}"
            )


def _is_image(source: Any) -> bool:
    if isinstance(source, np.ndarray | Tensor):
        # An array with four dimensions is a batch. Its images are yielded one by one.
        return source.ndim != 4
    return isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read") or hasattr(source, "getbands")
