"""Run-length encoding of masks in COCO's compressed form, which pycocotools reads and writes.

The pixels are taken column by column. Counts of 0s and 1s alternate, starting with 0s. From the fourth count on, the
difference to the count two places before is stored, in groups of five bits, as printable characters
(maskApi.c of https://github.com/cocodataset/cocoapi).

Shapes: H W the image, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

_ROWS = 64  # rows to transpose at a time


class Rle(TypedDict):
    """Run-length encoding of one binary mask.

    Attributes:
        size: [H, W].
        counts: Compressed counts, ASCII.
    """

    size: list[int]
    counts: str


def encode(mask: npt.NDArray[Any]) -> Rle:
    """Encode a binary mask.

    Args:
        mask: Mask of shape (H, W). A value other than 0 counts as 1.

    Returns:
        The encoding, equal to that of `pycocotools.mask.encode`.

    Raises:
        ValueError: If the mask has the wrong shape.
    """
    return next((rle for value, rle in encode_ids(np.asarray(mask) != 0) if value), _of_no_pixel(mask.shape))


def encode_ids(mask: npt.NDArray[Any]) -> Iterator[tuple[int, Rle]]:
    """Encode the pixels of each id in a mask of ids.

    Args:
        mask: Ids of shape (H, W).

    Yields:
        Each id in the mask, in ascending order, with the encoding of its pixels.

    Raises:
        ValueError: If the mask has the wrong shape.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask of shape {mask.shape}: expected (H, W)")
    flat = _by_columns(mask)
    if not flat.size:
        return
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], flat.size)
    ids = flat[starts]
    for value in np.unique(ids):
        chosen = ids == value
        bounds = np.stack([starts[chosen], ends[chosen]], axis=1).reshape(-1)
        if bounds[-1] != flat.size:
            bounds = np.append(bounds, flat.size)
        yield int(value), {"size": list(mask.shape), "counts": _compressed(np.diff(bounds, prepend=0))}


def decode(rle: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Decode a compressed encoding.

    Args:
        rle: An encoding, with "counts" as str or bytes.

    Returns:
        Mask of 0 and 1 of shape (H, W), uint8.

    Raises:
        ValueError: If the counts are damaged, or don't fit the size.
    """
    height, width = rle["size"]
    counts = _checked_counts(rle)
    values = (np.arange(len(counts)) % 2).astype(np.uint8)
    return np.repeat(values, counts).reshape(width, height).T


def area(rle: Mapping[str, Any]) -> int:
    """Return the number of pixels that are 1.

    Raises:
        ValueError: If the counts are damaged, or don't fit the size.
    """
    return int(_checked_counts(rle)[1::2].sum())


def bounding_box(rle: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return the smallest rectangle around the pixels that are 1: x, y, width, height; all 0 if there are none.

    Raises:
        ValueError: If the counts are damaged, or don't fit the size.
    """
    height = rle["size"][0]
    bounds = np.cumsum(_checked_counts(rle))
    starts = bounds[: len(bounds) // 2 * 2 : 2]
    lasts = bounds[1::2] - 1
    if not len(starts):
        return 0, 0, 0, 0
    left, right = int(starts[0] // height), int(lasts[-1] // height)
    if (starts // height != lasts // height).any():  # a run that continues in the next column
        return left, 0, right - left + 1, height
    top, bottom = int((starts % height).min()), int((lasts % height).max())
    return left, top, right - left + 1, bottom - top + 1


def _by_columns(mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the pixels column by column. Groups of rows keep the caches useful, unlike `mask.ravel(order="F")`."""
    height, width = mask.shape
    columns = np.empty((width, height), dtype=mask.dtype)
    for top in range(0, height, _ROWS):
        columns[:, top : top + _ROWS] = mask[top : top + _ROWS].T
    return columns.reshape(-1)


def _of_no_pixel(shape: tuple[int, ...]) -> Rle:
    height, width = shape
    return {"size": [height, width], "counts": _compressed(np.array([height * width]))}


def _compressed(counts: npt.NDArray[np.int64]) -> str:
    """Return counts as COCO's characters: five bits each, the lowest first, 32 if more follow, plus 48."""
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    columns, used = [], []
    more = np.ones(len(rest), dtype=bool)
    while more.any():
        used.append(more)
        group = rest & 31
        rest = rest >> 5
        # The sign is the highest bit of the last group.
        more = more & (rest != np.where(group & 16, -1, 0))
        columns.append(group + 48 + 32 * more)
    characters = np.stack(columns, axis=1)[np.stack(used, axis=1)]
    return str(characters.astype(np.uint8).tobytes(), "ascii")


def _checked_counts(rle: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return the counts of an encoding, checked against its size."""
    text = rle["counts"]
    if not isinstance(text, str | bytes):
        raise ValueError("counts: expected the compressed form, a string")
    height, width = rle["size"]
    data = np.frombuffer(text.encode("latin-1", "replace") if isinstance(text, str) else text, dtype=np.uint8)
    groups = data.astype(np.int64) - 48
    if not groups.size or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("counts: damaged; expected the characters of COCO's compressed run lengths")
    ends = np.flatnonzero(groups & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    places = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 11:  # more bits than an int64 has
        raise ValueError("counts: damaged; a run length has more than 60 bits")
    counts = np.add.reduceat((groups & 31) << (5 * places), starts)
    negative = (groups[ends] & 16) != 0
    counts -= negative.astype(np.int64) << (5 * (places[ends] + 1))
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    if counts.min() < 0 or counts.sum() != height * width:
        raise ValueError(
            f"counts: damaged; they do not add up to the {height * width} pixels of size {[height, width]}"
        )
    return counts
