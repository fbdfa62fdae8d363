"""Overlays of masks on images. The C++ library draws identical pictures (cpp/src/mask.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.errors import ImageError
from segnets.images import image_pixels
from segnets.palettes import voc_palette

if TYPE_CHECKING:
    from segnets.images import ImageLike

VOID = 255


def overlay(image: ImageLike, mask: npt.NDArray[np.integer], palette: Sequence[Colour] = ()) -> npt.NDArray[np.uint8]:
    """Blend an image with the colours of a mask at 50 % opacity. Black classes leave the image unchanged.

    The id 255 without a colour does the same: PASCAL VOC and others use it to mark pixels to ignore. A pixel of a
    multi-label mask has the colour of its last plane that is 1, and is unchanged if there is none.

    Args:
        image: Path of an image file or Pillow image, read as `segnets.segment` reads it; an array of shape
            (H, W, 3), uint8, RGB; or a gray array of shape (H, W), (H, W, 1) or (H, W, 2), whose first band is
            shown. If an array has more than three bands, the first three are shown.
        mask: Class ids of shape (H, W), or planes of 0 and 1 of shape (C, H, W).
        palette: One RGB colour (0..255) per class id; empty for PASCAL VOC's colours.

    Returns:
        Image of shape (H, W, 3), uint8, RGB.

    Raises:
        ImageError: If `image` can't be read or is not uint8, the shapes differ, or a class id other than 255 has no
            colour.

    Example:
        >>> picture = overlay("photo.jpg", segnets.segment(model, "photo.jpg"), model.card.palette)
    """
    if not isinstance(image, np.ndarray):
        image = image_pixels(image)
    if image.ndim not in (2, 3) or image.shape[2:] == (0,) or image.dtype != np.uint8:
        raise ImageError(f"image of shape {image.shape} and type {image.dtype}: expected (H, W, 3) or (H, W) uint8")
    bands = image.reshape(*image.shape[:2], -1).astype(np.uint8, copy=False)
    image = bands[..., :3] if bands.shape[2] >= 3 else bands[..., [0, 0, 0]]
    if mask.shape[-2:] != image.shape[:2] or mask.ndim not in (2, 3):
        raise ImageError(
            f"the mask has shape {mask.shape}, but the image has size {image.shape[:2]}. The sizes must be equal"
        )
    if not palette:
        classes = len(mask) if mask.ndim == 3 else int(mask.max(initial=0)) + 1
        palette = voc_palette(classes if classes > VOID + 1 else VOID)
    if mask.ndim == 3:
        return _blended(image, _colours_of_planes(mask, palette))
    void = (mask == VOID) if len(palette) <= VOID else np.zeros_like(mask, dtype=bool)
    ids = mask[~void]
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < len(palette):
        raise ImageError(
            f"the mask has ids {ids.min()}..{ids.max()}, but the palette has {len(palette)} colours. Give one per id"
        )
    table = np.array([*palette, (0, 0, 0)], dtype=np.uint16)
    return _blended(image, table[np.where(void, len(palette), mask)])


def _colours_of_planes(planes: npt.NDArray[np.integer], palette: Sequence[Colour]) -> npt.NDArray[np.uint16]:
    """Return the colour of the last plane that is 1, or black, (H, W, 3)."""
    if len(planes) > len(palette):
        raise ImageError(
            f"the mask has {len(planes)} planes, but the palette has {len(palette)} colours. Give one per plane"
        )
    colours = np.zeros((*planes.shape[1:], 3), dtype=np.uint16)
    for plane, colour in zip(planes, palette, strict=False):
        colours[plane != 0] = colour
    return colours


def _blended(image: npt.NDArray[np.uint8], colours: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    blended = ((image.astype(np.uint16) + colours + 1) // 2).astype(np.uint8)
    black = (colours == 0).all(axis=2, keepdims=True)
    return np.where(black, image, blended)
