"""Decode the cells where classes meet. Only the logits of classes that can be the largest are resized.

If a class has a smaller logit than another class at every low-resolution position that a cell's pixels mix, its logit
is also smaller at these pixels, because the weights are at least 0 and rounding keeps the order. So the class that is
largest at one position excludes most of the others. Usually two or three classes are left.

Shapes: C channels of the logits, h w the logits, H W the image. A cell mixes T positions along each axis and has at
most L pixels along each; S = T * T positions. K cells are decoded together. The cells come last, so that NumPy's loops
are long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segnets.inference.cells import Runs

_Floats: TypeAlias = npt.NDArray[np.float32]
_Integers: TypeAlias = npt.NDArray[np.intp]
_Ids: TypeAlias = npt.NDArray[Any]

# Logits that are resized at a time: 256 KiB of float32, which fit in the caches of common CPUs.
_PIECE = 1 << 16


def decode_cells(
    logits: _Floats, ids: _Ids, rows: Runs, columns: Runs, cells: tuple[_Integers, _Integers], mask: _Ids
) -> None:
    """Set the mask pixels of some cells to the id of the largest resized logit, the lowest id on a tie.

    Args:
        logits: Logits, (C, h, w), all finite.
        ids: Id of the largest logit, (h, w).
        rows: Runs of the rows.
        columns: Runs of the columns.
        cells: Numbers of the runs of rows and of columns of each cell, (K,) each.
        mask: Mask to change in place, (H, W), contiguous.
    """
    channels, _, w = logits.shape
    count = len(cells[0])
    positions = rows.inputs.take(cells[0], axis=1)[:, None] * w + columns.inputs.take(cells[1], axis=1)
    positions = positions.reshape(-1, count)  # (S, K)
    # "clip" checks the positions faster than "raise".
    window = logits.reshape(channels, -1).take(positions, axis=1, mode="clip")  # (C, S, K)
    candidates = _candidates(window, ids.reshape(-1)[positions])
    counts = candidates.view(np.uint8).sum(0, dtype=np.uint32)
    order = counts.argsort(kind="stable")
    cell, classes = np.divmod(np.flatnonzero(np.ascontiguousarray(candidates.T[order])), channels)
    starts = np.searchsorted(cell, np.arange(count))
    pixels = len(rows.outputs) * len(columns.outputs)
    flat_mask = mask.reshape(-1)
    for begin, end in _groups(counts[order], _PIECE // pixels):
        chosen = order[begin:end]
        number = np.minimum(np.arange(counts[chosen[-1]])[:, None], counts[chosen] - 1)
        of_cells = classes[starts[begin:end] + number]  # (M, k), ascending
        at = (of_cells * len(positions) * count + chosen)[:, None] + (np.arange(len(positions)) * count)[:, None]
        of_group = cells[0][chosen], cells[1][chosen]
        values = _resized(window.reshape(-1).take(at, mode="clip"), rows, columns, of_group)
        outputs = rows.outputs.take(of_group[0], axis=1)[:, None] * mask.shape[1]
        outputs = outputs + columns.outputs.take(of_group[1], axis=1)
        flat_mask[outputs] = _first_of_largest(values, of_cells.astype(mask.dtype))


def _candidates(window: _Floats, ids: _Ids) -> npt.NDArray[np.bool_]:
    """Return the classes that can be the largest in each cell, (C, K), from logits (C, S, K) and ids of the largest."""
    _, positions, count = window.shape
    at = np.arange(positions * count).reshape(positions, count)
    reaches = [
        (window >= window.reshape(-1).take(ids[corner] * np.intp(positions * count) + at, mode="clip")).any(1)
        for corner in (0, -1)
    ]
    result: npt.NDArray[np.bool_] = reaches[0] & reaches[1]
    return result


def _groups(counts: _Ids, most: int) -> Iterator[tuple[int, int]]:
    """Divide cells, sorted by number of candidates (K,), into groups of similar numbers and at most `most` in total."""
    begin = 0
    while begin < len(counts):
        least = int(counts[begin])
        # Cells with fewer candidates repeat the last one.
        largest = least + least // 4
        end = int(np.searchsorted(counts, largest, side="right"))
        end = min(end, begin + max(1, most // int(counts[end - 1])))
        yield begin, end
        begin = end


def _resized(values: _Floats, rows: Runs, columns: Runs, cells: tuple[_Integers, _Integers]) -> _Floats:
    """Resize logits of M classes in k cells, (M, S, k), to their pixels, (M, L, L, k)."""
    weights = columns.weights.take(cells[1], axis=2)  # (T, L, k)
    values = values.reshape(len(values), len(rows.inputs), len(columns.inputs), 1, -1)
    wide = values[:, :, 0] * weights[0]  # (M, T, L, k)
    for each in range(1, len(weights)):
        since = columns.since[each]
        wide[:, :, since:] += values[:, :, each] * weights[each, since:]
    weights = rows.weights.take(cells[0], axis=2)[:, :, None]
    result: _Floats = wide[:, :1] * weights[0]
    for each in range(1, len(weights)):
        since = rows.since[each]
        result[:, since:] += wide[:, each, None] * weights[each, since:]
    return result


def _first_of_largest(values: _Floats, ids: _Ids) -> _Ids:
    """Return the id of the largest of M values at each pixel, (L, L, k), from values (M, L, L, k) and ids (M, k)."""
    best = values[0]
    result = np.broadcast_to(ids[0], best.shape)
    for value, candidate in zip(values[1:], ids[1:], strict=True):
        # Bitwise selection, which is many times faster than `where`.
        result = result ^ ((result ^ candidate) * (value > best))
        best = np.maximum(best, value)
    return result
