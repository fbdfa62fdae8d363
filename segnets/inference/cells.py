"""Fast decoding of class masks: most pixels need no resized logits.

Logits are resized by weights that are at least 0. If one class has the largest logit at all the positions
that a pixel mixes, it also has the largest logit at the pixel, whatever the weights are. Networks compute logits at an
eighth of the image's size or less, and objects are large, so only pixels at the borders of objects need resizing.

Shapes: C channels of the logits, h w the logits, H W the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segnets.inference.taps import Taps

_Ids = npt.NDArray[Any]
_Integers = npt.NDArray[np.int64]

# Largest number of outputs in a run. Cells are decoded as a whole, and must stay small.
_LONGEST = 64


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of neighbouring outputs along an axis that share their first input.

    Attributes:
        starts: First output of each of n runs, and the number of outputs, (n + 1,).
        inputs: The T inputs that the outputs of a run mix, the last one again if there are fewer, (T, n).
        outputs: The L outputs of each run, the first one again if there are fewer, (L, n).
        weights: Weights of the inputs, (T, L, n) float32.
        since: First of the L outputs that mixes each of the T inputs.
    """

    starts: _Integers
    inputs: _Integers
    outputs: _Integers
    weights: npt.NDArray[np.float32]
    since: tuple[int, ...]

    @classmethod
    def of(cls, taps: Taps) -> Runs:
        """Return the runs of an axis. Long runs, and the longer ones at its ends, are split."""
        count = len(taps.first)
        begins = np.concatenate(([0], np.flatnonzero(np.diff(taps.first)) + 1))
        longest = min(-(-count // taps.size), _LONGEST)
        parts = -(-np.diff(begins, append=count) // longest)
        number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        starts = np.append(np.repeat(begins, parts) + longest * number, count)
        first, last = taps.first[starts[:-1]], taps.last[starts[1:] - 1]
        inputs = np.minimum(first + np.arange(len(taps.weights))[:, None], last)
        lengths = np.diff(starts)
        # Short runs repeat their first output, not the last one, which alone mixes three inputs.
        outputs = np.maximum(starts[1:] - np.arange(int(lengths.max()), 0, -1)[:, None], starts[:-1])
        weights = taps.weights[:, outputs]
        used = np.any(weights > 0, axis=2)
        since = tuple(int(each.argmax()) if each.any() else len(each) for each in used)
        return cls(starts, inputs, outputs, weights, since)

    @property
    def lengths(self) -> _Integers:
        """Number of outputs of each run, (n,)."""
        return np.diff(self.starts)

    @property
    def first(self) -> _Integers:
        """First input of each run, (n,)."""
        result: _Integers = self.inputs[0]
        return result

    @property
    def last(self) -> _Integers:
        """Last input of each run, (n,)."""
        result: _Integers = self.inputs[-1]
        return result

    def at(self, output: int) -> int:
        """Return the number of the run that an output belongs to."""
        return int(np.searchsorted(self.starts, output, side="right")) - 1


def uniform_cells(ids: _Ids, rows: Runs, columns: Runs) -> tuple[_Ids, npt.NDArray[np.bool_]]:
    """Find the cells whose inputs all have the same id. A cell is the pixels of one run of rows and one of columns.

    Args:
        ids: Id of the largest logit, (h, w).
        rows: Runs of the rows, n of them.
        columns: Runs of the columns, m of them.

    Returns:
        The id of one input of each cell, (n, m), and whether any other input differs, (n, m) bool.
    """
    upper = ids[rows.first]
    differs = np.zeros(upper.shape, bool)
    for inputs in rows.inputs[1:]:
        differs |= ids[inputs] != upper
    result = upper[:, columns.first]
    mixed = differs[:, columns.first]
    for inputs in columns.inputs[1:]:
        mixed |= differs[:, inputs]
        mixed |= upper[:, inputs] != result
    return result, mixed


def argmax(band: npt.NDArray[np.float32]) -> _Ids:
    """Return the first index of the maximum over the channels (C, n, W).

    Vectorised passes take a fraction of the time of NumPy's and torch's `argmax`.
    """
    result: _Ids
    channels = len(band)
    dtype = np.uint8 if channels < 256 else np.uint32
    # 0 where a channel is not the maximum, else a number that decreases with its index.
    is_largest = (band == band.max(0)).view(np.uint8)
    ranks = np.arange(channels, 0, -1, dtype=dtype)[:, None, None]
    largest = (np.multiply(is_largest, ranks, out=is_largest) if channels < 256 else is_largest * ranks).max(0)
    if not largest.all():  # NaN is the maximum, as for `argmax`, but unequal to itself
        result = band.argmax(0)
        return result
    result = channels - largest
    return result
