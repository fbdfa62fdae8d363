"""Decode logits at the size of an image into masks, probabilities, confidence and entropy.

Everything is computed on the CPU, in bands of rows that fit into its caches. Logits of all classes at the image's size,
which take 12 GB for 21 classes of a 12000x12000 image, are never held in memory.

No bit of a result depends on the height of the bands or on the number of threads. This is why NumPy computes the
exponentials: torch's differ in the last bit at the ends of the pieces that its threads work on.

Shapes: C channels of the logits, H W the image, h w the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segnets.card import Decoding
from segnets.inference._threads import share
from segnets.inference.cells import argmax
from segnets.inference.resized_logits import BAND, Band, Mask, ResizedLogits, dtype_of_ids

# Neighbouring bands both resize the rows of logits at their shared border.
_MIN_ROWS = 8
# Smaller probabilities are raised to this one before the logarithm. It is close to the smallest float32.
_SMALLEST = np.float32(1e-38)


class LogitMaps(Protocol):
    """Logits of one image at its displayed size, read in bands of rows.

    The softmax over the channels gives probabilities; for decodings with a threshold, the sigmoid does. Bands are read
    in several threads at once.
    """

    @property
    def channels(self) -> int:
        """Number of channels C."""

    @property
    def height(self) -> int:
        """Height H of the image."""

    @property
    def width(self) -> int:
        """Width W of the image."""

    def band(self, top: int, bottom: int) -> Tensor:
        """Return the logits of the rows from `top` to `bottom`.

        Args:
            top: First row, from 0.
            bottom: Row after the last one, at most H.

        Returns:
            New tensor of shape (C, bottom - top, W), float32, on the CPU, which the caller may change.
        """

    def crop(self, top: int, bottom: int, left: int, right: int) -> LogitMaps:
        """Return the logits of a part of the image, equal to those of the whole apart from rounding.

        Args:
            top: First row, from 0.
            bottom: Row after the last one, at most H.
            left: First column, from 0.
            right: Column after the last one, at most W.
        """


class AveragedMaps:
    """Mean of the probabilities of several networks, or of several views of an image, as logits.

    The band of an ensemble is the logarithm of the mean softmax; for decodings with a threshold, the logit of the mean
    sigmoid.

    Args:
        maps: Logits of the same image, at least one.
        decoding: Rule that determines how logits become probabilities.

    Raises:
        ValueError: If `maps` is empty, or their sizes or numbers of channels differ.
    """

    def __init__(self, maps: Sequence[LogitMaps], decoding: Decoding) -> None:
        shapes = {(each.channels, each.height, each.width) for each in maps}
        if len(shapes) != 1:
            raise ValueError(f"maps: expected logits of one shape, got {sorted(shapes) or 'none'}")
        self._maps = tuple(maps)
        self._decoding = decoding
        self.channels, self.height, self.width = shapes.pop()

    def band(self, top: int, bottom: int) -> Tensor:
        """Return the logits of the rows from `top` to `bottom`, as `LogitMaps.band` does."""
        first, *others = self._maps
        if not others:
            return first.band(top, bottom)
        softmax = self._decoding.rule == "argmax"
        probabilities_of = _softmax if softmax else _sigmoids
        total = probabilities_of(first.band(top, bottom).numpy())
        for each in others:
            total += probabilities_of(each.band(top, bottom).numpy())
        total /= np.float32(len(self._maps))
        logarithms = np.log(np.maximum(total, _SMALLEST, out=total), out=total)
        return torch.from_numpy(logarithms if softmax else logarithms[0] - logarithms[1])

    def crop(self, top: int, bottom: int, left: int, right: int) -> AveragedMaps:
        """Return a part of the logits, as `LogitMaps.crop` does."""
        return AveragedMaps([each.crop(top, bottom, left, right) for each in self._maps], self._decoding)


class FlippedMaps:
    """Logits of the horizontally flipped image, flipped back.

    Args:
        maps: Logits of the flipped image.
    """

    def __init__(self, maps: LogitMaps) -> None:
        self._maps = maps
        self.channels, self.height, self.width = maps.channels, maps.height, maps.width

    def band(self, top: int, bottom: int) -> Tensor:
        """Return the logits of the rows from `top` to `bottom`, as `LogitMaps.band` does."""
        return self._maps.band(top, bottom).flip(2)

    def crop(self, top: int, bottom: int, left: int, right: int) -> FlippedMaps:
        """Return a part of the logits, as `LogitMaps.crop` does."""
        return FlippedMaps(self._maps.crop(top, bottom, self.width - right, self.width - left))


def decode_mask(maps: LogitMaps, decoding: Decoding) -> Mask:
    """Decode the mask of an image. Ties give the lowest id.

    Args:
        maps: Logits of the image.
        decoding: Rule that turns logits into ids.

    Returns:
        Ids of shape (H, W), uint8, or uint16 for more than 256 channels. For the rule "multilabel", planes of 0 and 1
        of shape (C, H, W), uint8.

    Raises:
        ValueError: If the rule contradicts the number of channels, or the ids need more than 16 bits.
    """
    _check_rule(maps, decoding)
    if decoding.rule == "argmax":
        found = maps.ids() if isinstance(maps, ResizedLogits) else None
        return _per_pixel(maps, argmax, dtype_of_ids(maps.channels)) if found is None else found
    planes = np.empty((maps.channels, maps.height, maps.width), np.uint8)

    def decode(top: int, bottom: int, band: Band) -> None:
        np.greater(band, decoding.cut, out=planes[:, top:bottom].view(bool))

    _for_each_band(maps, decode)
    return planes if decoding.rule == "multilabel" else planes[0]


def confidence(maps: LogitMaps, decoding: Decoding) -> npt.NDArray[np.float32]:
    """Compute the probability of the id that `decode_mask` gives each pixel.

    Args:
        maps: Logits of the image.
        decoding: Rule that turns logits into ids.

    Returns:
        Probabilities of shape (H, W), float32, 0..1. For the rule "multilabel", those of the least
            certain plane.

    Raises:
        ValueError: If the rule contradicts the number of channels.
    """
    _check_rule(maps, decoding)
    if decoding.rule == "argmax":
        return _per_pixel(maps, _largest_softmax, np.float32)

    def chosen(band: Band) -> Band:
        return _sigmoid(np.where(band > decoding.cut, band, -band).min(0))

    return _per_pixel(maps, chosen, np.float32)


def entropy(maps: LogitMaps, decoding: Decoding) -> npt.NDArray[np.float32]:
    """Compute the entropy of the classes' probabilities in nats.

    Args:
        maps: Logits of the image.
        decoding: Rule that turns logits into ids.

    Returns:
        Entropies of shape (H, W), float32, from 0 to the logarithm of the number of ids. For the rule "multilabel", the
        sum over the planes.

    Raises:
        ValueError: If the rule contradicts the number of channels.
    """
    _check_rule(maps, decoding)
    if decoding.rule == "argmax":
        return _per_pixel(maps, _entropy, np.float32)

    def binary(band: Band) -> Band:
        return _sum(_entropy(np.stack((plane, np.zeros_like(plane)))) for plane in band)

    return _per_pixel(maps, binary, np.float32)


def probabilities(maps: LogitMaps, decoding: Decoding) -> npt.NDArray[np.float32]:
    """Compute the probability of each id at each pixel. The result takes 4 bytes per id and pixel.

    Args:
        maps: Logits of the image.
        decoding: Rule that turns logits into ids.

    Returns:
        Probabilities of shape (C, H, W), float32, 0..1. For the rule "threshold", of shape (2, H, W): those of the ids
        0 and 1.

    Raises:
        ValueError: If the rule contradicts the number of channels.
    """
    _check_rule(maps, decoding)
    result = np.empty((decoding.ids(maps.channels), maps.height, maps.width), np.float32)

    def decode(top: int, bottom: int, band: Band) -> None:
        if decoding.rule == "argmax":
            result[:, top:bottom] = _softmax(band)
        elif decoding.rule == "multilabel":
            result[:, top:bottom] = _sigmoid(band)
        else:
            result[:, top:bottom] = _sigmoids(band)[::-1, 0]

    _for_each_band(maps, decode)
    return result


def _for_each_band(maps: LogitMaps, function: Callable[[int, int, Band], None]) -> None:
    """Call a function with the top, the bottom and the logits of all bands of an image, in several threads."""
    rows = max(_MIN_ROWS, BAND // (maps.channels * maps.width))

    def read(top: int) -> None:
        bottom = min(top + rows, maps.height)
        with torch.no_grad():
            band = maps.band(top, bottom)
        function(top, bottom, band.numpy())

    share(read, range(0, maps.height, rows))


def _per_pixel(
    maps: LogitMaps, function: Callable[[Band], npt.NDArray[Any]], dtype: type[np.generic]
) -> npt.NDArray[Any]:
    """Apply a function from logits (C, n, W) to values (n, W) to all bands."""
    result = np.empty((maps.height, maps.width), dtype)

    def decode(top: int, bottom: int, band: Band) -> None:
        result[top:bottom] = function(band)

    _for_each_band(maps, decode)
    return result


def _largest_softmax(band: Band) -> Band:
    """Return the largest softmax over the channels (C, n, W). Overwrites the band."""
    band -= band.max(0)
    return np.reciprocal(_sum(np.exp(band, out=band)))


def _softmax(band: Band) -> Band:
    """Return the softmax over the channels (C, n, W). Overwrites the band."""
    band -= band.max(0)
    np.exp(band, out=band)
    band /= _sum(band)
    return band


def _entropy(band: Band) -> Band:
    """Return the entropy of the softmax over the channels (C, n, W). Overwrites the band."""
    band -= band.max(0)
    # Below -104 the exponential is 0, whose product with an infinite logit would be NaN.
    np.maximum(band, -104, out=band)
    terms = np.exp(band)
    total = _sum(terms)
    terms *= band
    result: Band = np.log(total) - _sum(terms) / total
    return result


def _sigmoid(logits: Band) -> Band:
    with np.errstate(over="ignore"):  # 1 / infinity is 0
        return np.reciprocal(np.exp(-logits) + np.float32(1))


def _sigmoids(band: Band) -> Band:
    """Return the probabilities of 1 and 0 from logits (C, n, W), (2, C, n, W)."""
    return np.stack((_sigmoid(band), _sigmoid(-band)))


def _sum(planes: Iterable[Band]) -> Band:
    """Add planes one by one. NumPy's own sum would add those of one pixel in a different order."""
    iterator = iter(planes)
    total = next(iterator).copy()
    for plane in iterator:
        total += plane
    return total


def _check_rule(maps: LogitMaps, decoding: Decoding) -> None:
    if decoding.rule == "threshold" and maps.channels != 1:
        raise ValueError(f"decoding: a threshold needs logits of one channel, got {maps.channels}")
    if maps.channels > 1 << 16:
        raise ValueError(f"logits of {maps.channels} channels: a mask holds at most {1 << 16} ids")
