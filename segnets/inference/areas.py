"""Count the pixels of each class in a mask.

Shapes: H W the image, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from segnets.errors import ImageError
from segnets.inference.masks import VOID

_BAND = 1 << 18  # pixels to count at a time


def class_areas(mask: npt.NDArray[np.integer], num_classes: int) -> npt.NDArray[np.int64]:
    """Count the pixels of each class.

    Args:
        mask: Class ids of shape (H, W), or planes of 0 and 1 of shape (C, H, W).
        num_classes: Number of classes.

    Returns:
        Number of pixels per class, (num_classes,), int64. The id 255 is left out if it has no class: it marks pixels to
        ignore.

    Raises:
        ImageError: If the mask has the wrong shape, or contains an id without a class.
    """
    if mask.ndim not in (2, 3):
        raise ImageError(f"mask of shape {mask.shape}: expected (H, W), or planes (C, H, W)")
    if mask.ndim == 3:
        if len(mask) != num_classes:
            raise ImageError(f"mask of {len(mask)} planes for {num_classes} classes: expected one plane per class")
        return np.array([np.count_nonzero(plane) for plane in mask], dtype=np.int64)
    if mask.size and int(mask.min()) < 0:
        raise ImageError(f"the mask has the id {mask.min()}; expected ids from 0")
    counts = np.zeros(max(num_classes, int(mask.max(initial=0)) + 1), dtype=np.int64)
    for band in _bands(mask):
        counted = _histogram(mask[band])[: len(counts)]
        counts[: len(counted)] += counted
    unknown = [int(each) for each in np.flatnonzero(counts) if each >= num_classes and each != VOID]
    if unknown:
        raise ImageError(f"the mask has the id {unknown[-1]}; expected 0..{num_classes - 1}")
    return counts[:num_classes]


def mean_per_class(
    values: npt.NDArray[np.floating], mask: npt.NDArray[np.integer], num_classes: int
) -> list[float | None]:
    """Average values over the pixels of each class.

    Args:
        values: Array of shape (H, W).
        mask: Class ids of shape (H, W), or planes of 0 and 1 of shape (C, H, W).
        num_classes: Number of classes.

    Returns:
        One mean per class, None for a class without pixels.

    Raises:
        ImageError: If the mask has the wrong shape, or contains an id without a class.
    """
    areas = class_areas(mask, num_classes)
    if mask.ndim == 3:
        sums = np.array([values[plane != 0].sum(dtype=np.float64) for plane in mask])
    else:
        sums = np.zeros(max(num_classes, int(mask.max(initial=0)) + 1))
        for band in _bands(mask):
            sums += np.bincount(mask[band].reshape(-1), values[band].reshape(-1), minlength=len(sums))
    return [float(total / area) if area else None for total, area in zip(sums[:num_classes], areas, strict=True)]


def _histogram(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Count the pixels of each id, (n,) with n above the largest id."""
    if ids.dtype != np.uint8 or ids.size == 0:
        return np.bincount(ids.reshape(-1))
    from PIL import Image  # counts bytes many times faster than NumPy

    return np.array(Image.fromarray(ids).histogram(), dtype=np.int64)


def _bands(mask: npt.NDArray[np.integer]) -> Iterator[slice]:
    """Yield the rows of a mask in bands, because NumPy's `bincount` allocates 8 to 16 bytes per pixel."""
    height = max(1, _BAND // max(1, mask.shape[1]))
    for top in range(0, len(mask), height):
        yield slice(top, top + height)
