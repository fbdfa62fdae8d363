"""The protocol of a source of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol


@dataclass(frozen=True)
class Item:
    """One image that is not decoded yet.

    Attributes:
        source: The image as the caller named it, for messages and records.
        image: Argument for `segnets.images.read_image`: a path, bytes, a file object, an image, an array or a tensor.
        relative: Path below its folder, which determines the names of its outputs. None for images in memory.
    """

    source: str
    image: Any
    relative: PurePath | None = None

    @property
    def path(self) -> Path | None:
        """The file, or None for an image in memory."""
        return Path(self.image) if isinstance(self.image, str | os.PathLike) else None


class Source(Protocol):
    """Images in a fixed order."""

    def __iter__(self) -> Iterator[Item]:
        """Yield the images in order, one at a time."""
