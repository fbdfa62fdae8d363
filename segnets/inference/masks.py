"""Colours for masks. The C++ library draws the very same pictures (cpp/src/mask.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.errors import ImageError


def voc_palette(num_classes: int) -> list[Colour]:
    """PASCAL VOC's colour map: class 0 black, 1 dark red, 2 dark green; RGB, 0..255.

    The bits of the class id are dealt out to red, green and blue in turn, highest bit of the colour first
    (VOClabelcolormap.m of the VOC development kit).
    """

    def channel(class_id: int, shift: int) -> int:
        return sum((class_id >> (3 * bit + shift) & 1) << (7 - bit) for bit in range(8))

    return [(channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(num_classes)]


def overlay(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.integer], palette: Sequence[Colour]
) -> npt.NDArray[np.uint8]:
    """Half image, half colour of the class; a class whose colour is black leaves the image as it is.

    image: (H, W, 3) uint8 RGB; mask: (H, W) class ids; palette: a colour for each id. Returns (H, W, 3) uint8.
    Raises ImageError if the sizes differ or an id has no colour.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"image of shape {image.shape} and type {image.dtype}: expected (H, W, 3) uint8")
    if mask.shape != image.shape[:2]:
        raise ImageError(f"mask of shape {mask.shape} for an image of {image.shape[:2]}: they must have one size")
    if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) < len(palette):
        raise ImageError(f"mask with ids {mask.min()}..{mask.max()} for a palette of {len(palette)} colours")
    colours = np.asarray(palette, dtype=np.uint16)[mask]  # (H, W, 3)
    blended = ((image.astype(np.uint16) + colours + 1) // 2).astype(np.uint8)
    clear = (colours == 0).all(axis=2, keepdims=True)
    return np.where(clear, image, blended)
