"""Segment images of any size in overlapping tiles whose logits are blended.

Tiles are cut at the image's own resolution, and each goes through the network's own preprocessing. Their logits are
resized back to the tile's pixels. In the middle of each overlap the logits of two tiles are blended by a raised
cosine. Closer to its border a tile is ignored, because the network sees padding there instead of the image.

    tile 1   |==================~~~~------|
    tile 2                |------~~~~==================|     = used alone, ~ blended, - ignored

So half of the overlap is between any pixel that is used and the inner border of its tile. With the preprocessing "none"
and an overlap above the network's receptive field, the logits equal those of the whole image, provided that the sides
of the image are multiples of 32 and the network has no global pooling.

Rows are decoded as soon as they are finished. Only the blended rows wait for the next row of tiles, so memory grows
with the image's width, never with its height: the image's rows of one row of tiles as uint8, the blended rows (a
thirty-second of the tile's height) in all classes as float32, and one batch of tiles.

Shapes: H W the image, K its channels, C channels of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segnets.card import Decoding
from segnets.inference._threads import share
from segnets.inference.maps import AveragedMaps, LogitMaps, confidence, decode_mask
from segnets.inference.networks import Network
from segnets.inference.resized_logits import ResizedLogits
from segnets.inference.tiling import DEFAULT_OVERLAP, DEFAULT_TILE, Span, Tiling, divide
from segnets.inference.views import View

# Rows that are yielded at a time.
_ROWS = 128
# Logits that are resized and decoded at a time: 2 MiB of float32, which fit in the CPU's caches.
_PIECE = 1 << 19


class Windows(Protocol):
    """Part of the interface of `Raster` that tiling needs."""

    height: int
    width: int
    channels: int

    def read(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of a window, (bottom - top, right - left, K) uint8."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Finished rows of an image.

    Attributes:
        top: Number of the first row.
        image: Pixels, (n, W, K) uint8.
        mask: Ids, (n, W) uint8, or uint16 for more than 256 classes; planes of 0 and 1, (C, n, W) uint8, for the
            decoding "multilabel".
        confidence: Probability of the ids, (n, W) float32, or None if it was not requested.
        logits: Logits, (C, n, W) float32, or None if they were not requested.
    """

    top: int
    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.integer[Any]]
    confidence: npt.NDArray[np.float32] | None = None
    logits: npt.NDArray[np.float32] | None = None

    @property
    def bottom(self) -> int:
        """Number of the row after the last one."""
        return self.top + len(self.image)


def tile_rows(
    raster: Windows,
    networks: Network | Sequence[Network],
    *,
    tile: int = DEFAULT_TILE,
    overlap: int = DEFAULT_OVERLAP,
    decoding: Decoding | None = None,
    views: Sequence[View] = (View(),),
    batch: int = 1,
    confidence: bool = False,
    logits: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Rows]:
    """Segment an image tile by tile, and yield its rows from top to bottom as they are finished.

    An image no larger than one tile gets the same mask as without tiles.

    Args:
        raster: The image, with as many channels as the networks read.
        networks: The network, or several whose probabilities are averaged.
        tile: Side of the tiles, a multiple of 32, at least 64.
        overlap: Number of pixels that neighbouring tiles share, as in `divide`.
        decoding: Rule that turns logits into ids; None means the network's.
        views: Views of each tile whose probabilities are averaged.
        batch: Number of tiles that go through the network at a time.
        confidence: Whether to compute the probability of the ids.
        logits: Whether to return the logits. They take 4 bytes per class and pixel of a row of tiles.
        progress: Function that is called after each tile with the numbers of tiles done and of all tiles.

    Yields:
        Consecutive rows, which together cover the whole image.

    Raises:
        PredictError: If `tile` or `overlap` is not allowed.
        ImageError: If the image can't be read.
    """
    tiling = divide(raster.height, raster.width, tile=tile, overlap=overlap)
    networks = networks if isinstance(networks, Sequence) else [networks]
    decoding = decoding or networks[0].decoding
    blender = _Blender(tiling, raster.width, networks[0].num_classes, decoding)
    image = _ImageRows(raster, tiling.size[0])
    done = 0
    for row in tiling.rows:
        pixels = image.at(row.start)
        finished = blender.finished(row, confidence=confidence, logits=logits)
        for column, maps in _tiles(pixels, tiling, networks, views, decoding, batch):
            blender.add(maps, row, column, finished)
            done += 1
            if progress is not None:
                progress(done, len(tiling))
        yield from finished.rows(pixels, row)
        del finished  # before the next one is allocated


def _tiles(
    pixels: npt.NDArray[np.uint8],
    tiling: Tiling,
    networks: Sequence[Network],
    views: Sequence[View],
    decoding: Decoding,
    batch: int,
) -> Iterator[tuple[Span, LogitMaps]]:
    """Run the networks on a row of tiles, and yield the logits of each tile at its size."""
    height, width = tiling.size
    for first in range(0, len(tiling.columns), batch):
        columns = tiling.columns[first : first + batch]
        images = torch.from_numpy(np.stack([pixels[:, each.start : each.start + width] for each in columns]))
        computed = []
        for network in networks:
            prepared = network.prepare(images)
            computed += [(view, network.logits(view.of(prepared))) for view in views]
        for index, column in enumerate(columns):
            maps = [view.maps(logits[index], height, width) for view, logits in computed]
            yield column, maps[0] if len(maps) == 1 else AveragedMaps(maps, decoding)


class _ImageRows:
    """Image rows that one row of tiles covers. Every row is read once."""

    def __init__(self, raster: Windows, height: int) -> None:
        self._raster = raster
        self._pixels = np.empty((height, raster.width, raster.channels), dtype=np.uint8)
        self._start = -height  # nothing is read yet

    def at(self, start: int) -> npt.NDArray[np.uint8]:
        """Return the rows from `start` on, which must not be above those of the last call. The array is reused."""
        height = len(self._pixels)
        moved = min(start - self._start, height)
        kept = height - moved
        if kept:
            self._pixels[:kept] = self._pixels[moved:]
        for top in range(start + kept, start + height, _ROWS):
            bottom = min(top + _ROWS, start + height)
            self._pixels[top - start : bottom - start] = self._raster.read(top, bottom, 0, self._raster.width)
        self._start = start
        return self._pixels


class _Finished:
    """Decoded results of one row of tiles."""

    def __init__(
        self, top: int, height: int, width: int, classes: int, decoding: Decoding, *, confidence: bool, logits: bool
    ) -> None:
        self._top, self._height, self._decoding = top, height, decoding
        size = (height, width)
        planes = (classes, *size) if decoding.rule == "multilabel" else size
        deep = decoding.rule == "argmax" and classes > 256
        self._mask: npt.NDArray[np.integer[Any]] = np.empty(planes, np.uint16 if deep else np.uint8)
        self._confidence = np.empty(size, np.float32) if confidence else None
        self._logits = np.empty((classes, *size), np.float32) if logits else None

    def add(self, maps: LogitMaps, top: int, left: int) -> None:
        """Decode finished logits."""
        rows = slice(top - self._top, top - self._top + maps.height)
        columns = slice(left, left + maps.width)
        if self._logits is not None:
            part = self._logits[:, rows, columns]
            height = max(1, _PIECE // (maps.channels * maps.width))
            for start in range(0, maps.height, height):
                end = min(start + height, maps.height)
                part[:, start:end] = maps.band(start, end).numpy()
        if self._confidence is not None:
            self._confidence[rows, columns] = confidence(maps, self._decoding)
        self._mask[..., rows, columns] = decode_mask(maps, self._decoding)

    def rows(self, pixels: npt.NDArray[np.uint8], row: Span) -> Iterator[Rows]:
        """Yield all rows. `pixels` are those of the row of tiles, which is overwritten later."""
        for top in range(0, self._height, _ROWS):
            bottom = min(top + _ROWS, self._height)
            offset = self._top - row.start
            yield Rows(
                self._top + top,
                pixels[offset + top : offset + bottom].copy(),
                self._mask[..., top:bottom, :],
                None if self._confidence is None else self._confidence[top:bottom],
                None if self._logits is None else self._logits[:, top:bottom],
            )


class _Blender:
    """Blending of tiles from left to right and from top to bottom.

    The logits of blended pixels are kept unweighted until the next tile is added, so that equal logits stay equal.
    """

    def __init__(self, tiling: Tiling, width: int, classes: int, decoding: Decoding) -> None:
        self._width, self._classes, self._decoding = width, classes, decoding
        blended = tiling.blended
        ramp = [0.5 - 0.5 * math.cos(math.pi * (i + 0.5) / blended) for i in range(blended)]
        self._weights = torch.tensor(ramp, dtype=torch.float32)
        # Each part of the first is read before the next row of tiles overwrites it; the same holds for the second.
        self._below = torch.empty((classes, blended if len(tiling.rows) > 1 else 0, width), dtype=torch.float32)
        self._right = torch.empty((classes, tiling.size[0], blended), dtype=torch.float32)

    def finished(self, row: Span, *, confidence: bool, logits: bool) -> _Finished:
        """Allocate the results that a row of tiles completes."""
        height = row.last - row.after - row.first
        return _Finished(
            row.first, height, self._width, self._classes, self._decoding, confidence=confidence, logits=logits
        )

    def add(self, maps: LogitMaps, row: Span, column: Span, finished: _Finished) -> None:
        """Blend a tile with those to its left and above, and decode the pixels that no later tile changes."""
        (first, last), (left, right) = row.alone, column.alone

        def part(top: int, bottom: int, left: int, right: int) -> LogitMaps:
            return maps.crop(top - row.start, bottom - row.start, left - column.start, right - column.start)

        def above(top: int, bottom: int) -> None:
            logits = self._blend_columns(part(top, bottom, column.first, column.last), top - row.start, column)
            waiting = self._below[:, top - row.first : bottom - row.first, column.first : right]
            logits = torch.lerp(waiting, logits, self._weights[top - row.first : bottom - row.first, None])
            finished.add(_as_maps(logits), top, column.first)

        def beside(top: int, bottom: int) -> None:
            if column.before:
                logits = part(top, bottom, column.first, left).band(0, bottom - top)
                finished.add(_as_maps(self._blend_left(logits, top - row.start)), top, column.first)
            if column.after:
                self._keep_right(part(top, bottom, right, column.last).band(0, bottom - top), top - row.start)

        def below(top: int, bottom: int) -> None:
            logits = self._blend_columns(part(top, bottom, column.first, column.last), top - row.start, column)
            self._below[:, top - last : bottom - last, column.first : right] = logits

        if first < last and left < right:
            # Decoded as whole images are, which needs few resized logits.
            finished.add(part(first, last, left, right), first, left)
        # Pieces of one call share no row. `below` overwrites what `above` reads.
        wide, narrow = maps.channels * maps.width, maps.channels * (column.before + column.after)
        share(_call, [*_pieces(above, row.first, first, wide), *_pieces(beside, first, last, narrow)])
        share(_call, _pieces(below, last, row.last, wide))

    def _blend_columns(self, maps: LogitMaps, top: int, column: Span) -> Tensor:
        """Return the columns that the next tile to the right does not change, of rows from `top` of the tile on."""
        logits = maps.band(0, maps.height)
        if column.before:
            self._blend_left(logits[:, :, : column.before], top)
        kept = maps.width - column.after
        if column.after:
            self._keep_right(logits[:, :, kept:], top)
        return logits[:, :, :kept]

    def _blend_left(self, logits: Tensor, top: int) -> Tensor:
        """Blend columns with those of the previous tile, in place."""
        return logits.copy_(torch.lerp(self._right[:, top : top + logits.shape[1]], logits, self._weights))

    def _keep_right(self, logits: Tensor, top: int) -> None:
        """Keep blended columns for the next tile."""
        self._right[:, top : top + logits.shape[1]] = logits


def _pieces(function: Callable[[int, int], None], first: int, last: int, numbers: int) -> Iterator[Callable[[], None]]:
    """Divide some rows into pieces, and yield a call of a function for each.

    Args:
        function: Function of a piece's first row, and the row after its last one.
        first: First row.
        last: Row after the last one.
        numbers: Logits per row; 0 if there is nothing to do.
    """
    if numbers == 0:
        return
    height = max(1, _PIECE // numbers)
    for top in range(first, last, height):
        yield partial(function, top, min(top + height, last))


@torch.no_grad()
def _call(function: Callable[[], None]) -> None:
    function()


def _as_maps(logits: Tensor) -> LogitMaps:
    """Wrap logits, (C, n, m), that need no resize."""
    return ResizedLogits(logits, *logits.shape[1:])
