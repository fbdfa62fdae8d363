"""Logits at the size of an image, and what is decoded from them: masks, probabilities, confidence, entropy.

Everything is computed on the CPU, in bands of rows that fit into its caches. Logits of all classes at the image's size,
which take 12 GB for 21 classes of a 12000x12000 image, are never held.

No bit of a result depends on the height of the bands or on the number of threads. This is why NumPy computes the
exponentials: torch's differ in the last bit at the ends of the pieces that its threads share.

Shapes: C channels of the logits, H W the image, h w the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from segnets.card import Decoding

Mask: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Band: TypeAlias = npt.NDArray[np.float32]

# Numbers per band: 2 MiB of float32, which stay in the caches of usual CPUs.
_BAND = 1 << 19
# Neighbouring bands both resize the rows of the logits at their border.
_MIN_ROWS = 8
# Where a probability is smaller, its logarithm is that of this one. float32 has no much smaller numbers.
_SMALLEST = np.float32(1e-38)


class LogitMaps(Protocol):
    """Logits of one image at its displayed size, read in bands of rows.

    The softmax over the channels gives probabilities; for decodings with a threshold, the sigmoid does.
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


class ResizedLogits:
    """Logits of a network, resized to an image: bilinear, as torch resizes with `align_corners=False`.

    Args:
        logits: Logits of shape (C, h, w), floating point, on the CPU.
        height: Height of the image.
        width: Width of the image.

    Raises:
        ValueError: If a size is 0 or `logits` has another number of dimensions.
    """

    def __init__(self, logits: Tensor, height: int, width: int) -> None:
        if logits.ndim != 3 or 0 in logits.shape or height < 1 or width < 1:
            raise ValueError(f"logits of shape {tuple(logits.shape)} for an image of {height}x{width}: no pixels")
        self._logits = logits.detach()
        self.channels = logits.shape[0]
        self.height = height
        self.width = width
        self._rows = _taps(logits.shape[1], height)

    def band(self, top: int, bottom: int) -> Tensor:
        """Return the logits of the rows from `top` to `bottom`, as `LogitMaps.band` does."""
        _check_rows(self, top, bottom)
        upper, lower, weights = (each[top:bottom] for each in self._rows)
        first = int(upper[0])
        rows = self._logits[:, first : int(lower[-1]) + 1].float()
        if self.width != rows.shape[2]:
            # One axis at a time: a resize of both reads every row of the logits for every row of the image.
            rows = F.interpolate(rows, size=self.width, mode="linear", align_corners=False)
        above = rows.index_select(1, torch.from_numpy(upper - first))
        if self.height == self._logits.shape[1]:
            return above
        below = rows.index_select(1, torch.from_numpy(lower - first))
        weight = torch.from_numpy(weights)[:, None]
        # Not `addcmul`, which CPUs may round once or twice depending on the place in memory.
        return above.mul_(1 - weight).add_(below.mul_(weight))


class AveragedMaps:
    """Mean of the probabilities of several networks, or of several views of an image, as logits.

    The band of an ensemble is the logarithm of the mean softmax; for decodings with a threshold, the logit of the mean
    sigmoid.

    Args:
        maps: Logits of the same image, at least one.
        decoding: Rule that says how the logits become probabilities.

    Raises:
        ValueError: If `maps` is empty, or their sizes or numbers of channels differ.
    """

    def __init__(self, maps: Sequence[LogitMaps], decoding: Decoding) -> None:
        shapes = {(each.channels, each.height, each.width) for each in maps}
        if len(shapes) != 1:
            raise ValueError(f"maps: expected logits of one shape, got {sorted(shapes) or 'none'}")
        self._maps = tuple(maps)
        self._softmax = decoding.rule == "argmax"
        self.channels, self.height, self.width = shapes.pop()

    def band(self, top: int, bottom: int) -> Tensor:
        """Return the logits of the rows from `top` to `bottom`, as `LogitMaps.band` does."""
        first, *others = self._maps
        if not others:
            return first.band(top, bottom)
        probabilities_of = _softmax if self._softmax else _sigmoids
        total = probabilities_of(first.band(top, bottom).numpy())
        for each in others:
            total += probabilities_of(each.band(top, bottom).numpy())
        total /= np.float32(len(self._maps))
        logarithms = np.log(np.maximum(total, _SMALLEST, out=total), out=total)
        return torch.from_numpy(logarithms if self._softmax else logarithms[0] - logarithms[1])


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
        return _per_pixel(maps, _argmax, np.uint8 if maps.channels <= 256 else np.uint16)
    planes = np.empty((maps.channels, maps.height, maps.width), np.uint8)
    for top, bottom, band in _bands(maps):
        np.greater(band, decoding.cut, out=planes[:, top:bottom].view(bool))
    return planes if decoding.rule == "multilabel" else planes[0]


def confidence(maps: LogitMaps, decoding: Decoding) -> npt.NDArray[np.float32]:
    """Compute the probability of the id that `decode_mask` gives each pixel.

    Args:
        maps: Logits of the image.
        decoding: Rule that turns logits into ids.

    Returns:
        Probabilities of shape (H, W), float32, 0..1. For the rule "multilabel", that of the least certain plane.

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
    """Compute the probability of each id at each pixel. It holds all of them: 4 bytes per id and pixel.

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
    for top, bottom, band in _bands(maps):
        if decoding.rule == "argmax":
            result[:, top:bottom] = _softmax(band)
        elif decoding.rule == "multilabel":
            result[:, top:bottom] = _sigmoid(band)
        else:
            result[:, top:bottom] = _sigmoids(band)[::-1, 0]
    return result


def _taps(size: int, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return for each output the two inputs that it mixes and the second one's weight, computed as torch does."""
    if size == length:
        return np.arange(size), np.arange(size), np.zeros(size, np.float32)
    # The scale is rounded to float32, and the rest of the formula only once: CPUs have an instruction for it.
    scale = float(np.float32(size) / np.float32(length))
    position = np.maximum(scale * (np.arange(length) + 0.5) - 0.5, 0).astype(np.float32)
    first = np.minimum(position.astype(np.int64), size - 1)
    weight = np.clip(position - first.astype(np.float32), 0, 1).astype(np.float32)
    return first, np.minimum(first + 1, size - 1), weight


def _bands(maps: LogitMaps) -> Iterator[tuple[int, int, Band]]:
    """Yield the top, the bottom and the logits of all bands of an image."""
    rows = max(_MIN_ROWS, _BAND // (maps.channels * maps.width))
    for top in range(0, maps.height, rows):
        bottom = min(top + rows, maps.height)
        with torch.no_grad():
            band = maps.band(top, bottom)
        yield top, bottom, band.numpy()


def _per_pixel(maps: LogitMaps, function: Callable[[Band], Band], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Apply a function from logits (C, n, W) to values (n, W) to all bands."""
    result = np.empty((maps.height, maps.width), dtype)
    for top, bottom, band in _bands(maps):
        result[top:bottom] = function(band)
    return result


def _argmax(band: Band) -> Band:
    """Return the first index of the maximum over the channels (C, n, W). Overwrites the band.

    Vectorised passes of torch take a seventh of the time of its `max(dim)`, and a fortieth of that of `argmax`.
    """
    channels, logits = len(band), torch.from_numpy(band)
    largest = logits.amax(0)
    if bool(largest.isnan().any()):  # NaN is the maximum, as for `max(dim)`, but unequal to itself
        return logits.max(0).indices.numpy()
    # 0 where a channel is not the maximum, else a number that falls with its index.
    ranks = torch.arange(channels, 0, -1, dtype=torch.float32, device="cpu")[:, None, None]
    return (channels - logits.eq_(largest).mul_(ranks).amax(0)).numpy()


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
    """Return the probabilities of 1 and of 0, (2, C, n, W)."""
    return np.stack((_sigmoid(band), _sigmoid(-band)))


def _sum(planes: Iterable[Band]) -> Band:
    """Add planes one by one. NumPy's own sum would add those of one pixel in another order."""
    iterator = iter(planes)
    total = next(iterator).copy()
    for plane in iterator:
        total += plane
    return total


def _check_rows(maps: LogitMaps, top: int, bottom: int) -> None:
    if not 0 <= top < bottom <= maps.height:
        raise ValueError(f"rows {top} to {bottom} of {maps.height}: expected 0 <= top < bottom <= height")


def _check_rule(maps: LogitMaps, decoding: Decoding) -> None:
    if decoding.rule == "threshold" and maps.channels != 1:
        raise ValueError(f"decoding: a threshold needs logits of one channel, got {maps.channels}")
    if maps.channels > 1 << 16:
        raise ValueError(f"logits of {maps.channels} channels: a mask holds at most {1 << 16} ids")
