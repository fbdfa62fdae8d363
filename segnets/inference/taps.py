"""Weights of a bilinear resize along one axis. Two successive resizes can be combined into one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Taps:
    """Weights of the T neighbouring inputs, or fewer at the border, that each output sums.

    Attributes:
        size: Number of inputs.
        first: First input of each of n outputs, (n,).
        weights: Weights of the inputs from `first` on, (T, n) float32. All are at least 0, and their sum is 1.
    """

    size: int
    first: _Integers
    weights: npt.NDArray[np.float32]

    def input(self, tap: int) -> _Integers:
        """Return, for each output, the index of the input that row `tap` of `weights` multiplies, (n,)."""
        return np.minimum(self.first + tap, self.size - 1)

    @cached_property
    def last(self) -> _Integers:
        """Last input with a non-zero weight for each output, (n,)."""
        result = self.first
        for tap in range(1, len(self.weights)):
            result = np.where(self.weights[tap] > 0, self.input(tap), result)
        return result

    def part(self, start: int, stop: int) -> tuple[int, Taps]:
        """Return the first input that some outputs mix, and the taps of these outputs, counted from this input on."""
        base, end = int(self.first[start]), int(self.last[start:stop].max()) + 1
        return base, Taps(end - base, self.first[start:stop] - base, self.weights[:, start:stop])

    def then(self, other: Taps) -> Taps:
        """Return the taps of this resize followed by another one."""
        outputs = np.arange(len(other.first))
        first = self.first[other.first]
        weights = np.zeros((1, len(outputs)))
        for outer in range(len(other.weights)):
            middle = other.input(outer)
            for inner in range(len(self.weights)):
                offset = self.input(inner)[middle] - first
                if (missing := offset.max() + 1 - len(weights)) > 0:
                    weights = np.pad(weights, ((0, missing), (0, 0)))
                weights[offset, outputs] += other.weights[outer].astype(float) * self.weights[inner, middle]
        return Taps(self.size, first, weights.astype(np.float32))


def bilinear_taps(size: int, length: int, *, align_corners: bool = False) -> Taps:
    """Return the taps of a bilinear resize from `size` inputs to `length` outputs, computed as torch does."""
    if size == length:
        return Taps(size, np.arange(size), np.ones((1, size), np.float32))
    if align_corners:
        scale = np.float32(size - 1) / np.float32(max(length - 1, 1))
        position = scale * np.arange(length, dtype=np.float32)
    else:
        # The scale is rounded to float32, and the rest of the formula only once: CPUs have an instruction for it.
        exact = float(np.float32(size) / np.float32(length))
        position = np.maximum(exact * (np.arange(length) + 0.5) - 0.5, 0).astype(np.float32)
    first = np.minimum(position.astype(np.int64), size - 1)
    weight = np.clip(position - first.astype(np.float32), 0, 1).astype(np.float32)
    return Taps(size, first, np.stack((1 - weight, weight)))
