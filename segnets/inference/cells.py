"""The fast way to a mask of classes: most pixels need no resized logits.

Logits are resized by weights that are at least 0. So where one class has the largest logit at all the positions of the
small logits that a pixel mixes, it has the largest one at the pixel, whatever the weights are. Networks compute logits
of an eighth of the image's size or less, and objects are large: only the pixels at the borders of objects remain.

Shapes: C channels of the logits, h w the logits, H W the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segnets.inference.taps import Taps

_Ids = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Runs:
    """Neighbouring outputs of an axis whose inputs begin at the same one.

    Attributes:
        starts: First output of each of n runs, and the number of outputs, (n + 1,).
        first: First input of each run, (n,).
        last: Last input of each run, (n,).
    """

    starts: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]

    @classmethod
    def of(cls, taps: Taps) -> Runs:
        """Return the runs of an axis. Of a run's outputs, some may mix fewer inputs than the others."""
        starts = np.concatenate(([0], np.flatnonzero(np.diff(taps.first)) + 1, [len(taps.first)]))
        return cls(starts, taps.first[starts[:-1]], taps.last[starts[1:] - 1])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of outputs of each run, (n,)."""
        return np.diff(self.starts)

    def inputs(self, offset: int) -> npt.NDArray[np.int64]:
        """Return an input of each run, its last one if it has fewer, (n,)."""
        return np.minimum(self.first + offset, self.last)

    def at(self, output: int) -> int:
        """Return the number of the run that an output belongs to."""
        return int(np.searchsorted(self.starts, output, side="right")) - 1

    @property
    def width(self) -> int:
        """Largest number of inputs of a run."""
        return int((self.last - self.first).max()) + 1


def uniform_cells(ids: _Ids, rows: Runs, columns: Runs) -> tuple[_Ids, npt.NDArray[np.bool_]]:
    """Find the cells, pixels of one run of rows and one of columns, all of whose inputs have the same id.

    Args:
        ids: Id of the largest logit, (h, w).
        rows: Runs of the rows, n of them.
        columns: Runs of the columns, m of them.

    Returns:
        The id of one input of each cell, (n, m), and whether the others differ, (n, m).
    """
    upper = ids[rows.first]
    differs = np.zeros(upper.shape, bool)
    for offset in range(1, rows.width):
        differs |= ids[rows.inputs(offset)] != upper
    result = upper[:, columns.first]
    mixed = differs[:, columns.first]
    for offset in range(1, columns.width):
        inputs = columns.inputs(offset)
        mixed |= differs[:, inputs]
        mixed |= upper[:, inputs] != result
    return result, mixed


def argmax(band: npt.NDArray[np.float32]) -> _Ids:
    """Return the first index of the maximum over the channels (C, n, W).

    Vectorised passes take a fraction of the time of `argmax`, in NumPy and in torch.
    """
    result: _Ids
    channels = len(band)
    dtype = np.uint8 if channels < 256 else np.uint32
    # 0 where a channel is not the maximum, else a number that falls with its index.
    is_largest = (band == band.max(0)).view(np.uint8)
    ranks = np.arange(channels, 0, -1, dtype=dtype)[:, None, None]
    largest = (np.multiply(is_largest, ranks, out=is_largest) if channels < 256 else is_largest * ranks).max(0)
    if not largest.all():  # NaN is the maximum, as for `argmax`, but unequal to itself
        result = band.argmax(0)
        return result
    result = channels - largest
    return result
