"""Resize logits of a network to an image in bands of rows, or only where classes meet.

Shapes: C channels of the logits, H W the image, h w the logits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from segnets.inference._threads import share
from segnets.inference.borders import decode_cells
from segnets.inference.cells import Runs, argmax, uniform_cells
from segnets.inference.taps import Taps, bilinear_taps

Mask: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Band: TypeAlias = npt.NDArray[np.float32]

# Numbers per band: 2 MiB of float32, which fit in the caches of common CPUs.
BAND = 1 << 19
# Threads that make many short calls wait for the interpreter's lock longer than they compute.
_SHARED = 1 << 24
# Up to this width, a call for each row of the logits takes longer than it computes.
_NARROW = 64
# Replaces infinity. Its sums with rounded weights don't overflow float32.
_LARGEST = 3e38
# Share of cells at borders above which it is faster to resize all logits.
_MOST_MIXED = 0.75


class ResizedLogits:
    """Logits of a network, resized to an image: bilinear, as torch resizes with `align_corners=False`.

    Args:
        logits: Logits of shape (C, h, w), floating point, on the CPU.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        through: Height and width to which the network itself would resize its logits first. Both resizes are combined.
            None if the network returns `logits` without a resize of its own.
        align_corners: Whether the network's own resize aligns the centres of the corner pixels.

    Raises:
        ValueError: If a size is 0 or `logits` has the wrong number of dimensions.
    """

    def __init__(
        self,
        logits: Tensor,
        height: int,
        width: int,
        *,
        through: tuple[int, int] | None = None,
        align_corners: bool = False,
    ) -> None:
        if logits.ndim != 3 or 0 in logits.shape or height < 1 or width < 1:
            raise ValueError(f"logits of shape {tuple(logits.shape)} for an image of {height}x{width}: no pixels")
        self._logits = logits.detach()
        self.channels = logits.shape[0]
        self.height = height
        self.width = width
        self._align_corners = align_corners and through is not None
        through = through or (height, width)
        self._rows = _taps(logits.shape[1], through[0], height, self._align_corners)
        self._columns = _taps(logits.shape[2], through[1], width, self._align_corners)
        self._widths: tuple[int, int] | None = (through[1], width)

    def crop(self, top: int, bottom: int, left: int, right: int) -> ResizedLogits:
        """Return a part of the logits, as `LogitMaps.crop` does."""
        if (top, bottom, left, right) == (0, self.height, 0, self.width):
            return self
        result = copy.copy(self)
        row, result._rows = _part(self._rows, top, bottom)
        column, result._columns = _part(self._columns, left, right)
        result._logits = self._logits[:, row : row + result._rows.size, column : column + result._columns.size]
        result.height, result.width = bottom - top, right - left
        result._widths = None
        return result

    def band(self, top: int, bottom: int) -> Tensor:
        """Return the logits of the rows from `top` to `bottom`, as `LogitMaps.band` does."""
        if not 0 <= top < bottom <= self.height:
            raise ValueError(f"rows {top} to {bottom} of {self.height}: expected 0 <= top < bottom <= height")
        base = int(self._rows.first[top])
        wide = self._widened(base, int(self._rows.last[bottom - 1]))
        if self.width <= _NARROW:
            return torch.from_numpy(_gathered(wide, self._rows.part(top, bottom)[1], axis=1))
        runs = _runs(self._rows)
        result = np.empty((self.channels, bottom - top, self.width), np.float32)
        for run in range(runs.at(top), runs.at(bottom - 1) + 1):
            lines = wide[:, runs.first[run] - base : runs.last[run] - base + 1]
            start, stop = max(top, runs.starts[run]), min(bottom, runs.starts[run + 1])
            _mix(lines, self._rows.weights[:, start:stop], out=result[:, start - top : stop - top])
        return torch.from_numpy(result)

    def ids(self) -> Mask | None:
        """Return the argmax at each pixel, (H, W), the lowest id on a tie, or None if there is no fast method."""
        _, h, w = self._logits.shape
        if 3 * h * w > self.height * self.width:
            return None
        rows, columns = _runs(self._rows), _runs(self._columns)
        of_logits = self._ids_of_logits()
        if of_logits is None:
            return None
        of_cells, mixed = uniform_cells(of_logits, rows, columns)
        left = np.nonzero(mixed)
        if len(left[0]) > _MOST_MIXED * mixed.size:
            return None
        result: Mask = of_cells.repeat(columns.lengths, axis=1).repeat(rows.lengths, axis=0)
        logits = np.ascontiguousarray(self._logits.float().numpy())
        count = max(1, BAND // (self.channels * len(rows.inputs) * len(columns.inputs)))

        def decode(start: int) -> None:
            cells = left[0][start : start + count], left[1][start : start + count]
            decode_cells(logits, of_logits, rows, columns, cells, result)

        self._for_each(decode, range(0, len(left[0]), count))
        return result

    def _ids_of_logits(self) -> Mask | None:
        """Return the first id of the largest logit, (h, w), or None if a logit is not finite."""
        _, h, w = self._logits.shape
        result: Mask = np.empty((h, w), dtype_of_ids(self.channels))
        finite: list[bool] = []
        count = max(1, BAND // (self.channels * w))

        def decode(top: int) -> None:
            lines = self._logits[:, top : top + count].float()
            finite.append(_is_finite(lines))  # if not, the slow path is correct too
            result[top : top + count] = argmax(lines.numpy())

        self._for_each(decode, range(0, h, count))
        return result if all(finite) else None

    def _for_each(self, function: Callable[[int], None], starts: range) -> None:
        """Call a function for each part of a mask, in several threads if it is large."""
        if self.channels * self.height * self.width < _SHARED:
            for start in starts:
                function(start)
        else:
            share(function, starts)

    def _widened(self, first: int, last: int) -> Band:
        """Return some rows of the logits, resized to the image's width, (C, last - first + 1, W)."""
        rows = self._logits[:, first : last + 1].float()
        if not _is_finite(rows):
            # Infinity times a weight of 0, or minus infinity, is NaN, which would be the largest logit.
            rows = rows.nan_to_num(math.nan, _LARGEST, -_LARGEST)
        if self._widths is None:
            return _gathered(rows.numpy(), self._columns, axis=2)
        # One axis at a time: a resize of both reads every row of the logits for every row of the image.
        for width, align in zip(self._widths, (self._align_corners, False), strict=True):
            if width != rows.shape[2]:
                rows = F.interpolate(rows, size=width, mode="linear", align_corners=align)
        return rows.numpy()


# Most images of a stream share their size, and most tiles their position in the row.
@lru_cache(maxsize=64)
def _taps(size: int, through: int, length: int, align_corners: bool) -> Taps:
    """Return the two resizes of an axis as one, the first one with `align_corners`."""
    return bilinear_taps(size, through, align_corners=align_corners).then(bilinear_taps(through, length))


_part = lru_cache(maxsize=64)(Taps.part)
_runs = lru_cache(maxsize=64)(Runs.of)


def dtype_of_ids(channels: int) -> type[np.generic]:
    """Return the dtype of masks: uint8, or uint16 for more than 256 channels."""
    return np.uint8 if channels <= 256 else np.uint16


def _is_finite(logits: Tensor) -> bool:
    """Return whether all logits are finite. It may be False if only their sum is not."""
    return math.isfinite(logits.sum())


def _mix(lines: Band, weights: Band, out: Band | None = None) -> Band:
    """Sum the same k lines, (C, k, m), with weights, (T, n), to n rows, (C, n, m). The last line may count twice."""
    last = lines.shape[1] - 1
    result: Band = np.multiply(lines[:, :1], weights[0, :, None], out=out)
    for tap in range(1, len(weights)):
        if weights[tap].any():
            line = min(tap, last)
            result += lines[:, line : line + 1] * weights[tap, :, None]
    return result


def _gathered(lines: Band, taps: Taps, axis: int) -> Band:
    """Resize an axis of lines, (C, k, m), by gathering the inputs of all outputs."""
    shape = (-1, 1) if axis == 1 else (-1,)
    result: Band = lines.take(taps.first, axis) * taps.weights[0].reshape(shape)
    for tap in range(1, len(taps.weights)):
        result += lines.take(taps.input(tap), axis) * taps.weights[tap].reshape(shape)
    return result
