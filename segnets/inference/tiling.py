"""Division of an image into overlapping tiles: which pixels of a tile count, and which are blended."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from segnets.errors import PredictError

DEFAULT_TILE = 1024
DEFAULT_OVERLAP = 128
# The largest output stride of the networks. A tile whose start is a multiple of it is divided into the same cells of a
# feature map as the whole image.
ALIGNMENT = 32
MIN_TILE = 64


@dataclass(frozen=True)
class Span:
    """Part of a tile along one axis, in pixels of the image.

    Attributes:
        start: First pixel of the tile.
        first: First pixel that is used.
        last: Pixel after the last one that is used.
        before: Number of pixels from `first` on that are blended with the previous tile.
        after: Number of pixels up to `last` that are blended with the next tile.
    """

    start: int
    first: int
    last: int
    before: int
    after: int

    @property
    def alone(self) -> tuple[int, int]:
        """First pixel that no other tile contributes to, and the pixel after the last such one."""
        return self.first + self.before, self.last - self.after


@dataclass(frozen=True)
class Tiling:
    """Division of an image into tiles of one size.

    Attributes:
        size: Height and width of the tiles.
        rows: Division of the height.
        columns: Division of the width.
        step: Distance in pixels between neighbouring tiles. The last tile instead ends with the image.
        blended: Number of pixels over which neighbouring tiles are blended.
    """

    size: tuple[int, int]
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    step: int
    blended: int

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __str__(self) -> str:
        tiles = f"{len(self)} tiles of {self.size[0]}x{self.size[1]}"
        return f"{tiles}, one every {self.step} pixels, blended over {self.blended}" if len(self) > 1 else "1 tile"


def divide(height: int, width: int, *, tile: int = DEFAULT_TILE, overlap: int = DEFAULT_OVERLAP) -> Tiling:
    """Divide an image into tiles.

    An image that is no higher or wider than a tile is not divided along that axis. The distance of neighbouring tiles
    is rounded down to a multiple of 32, and the last tile is shifted inwards, so that all have the same size.

    Args:
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        tile: Side of the tiles, a multiple of 32, at least 64.
        overlap: Number of pixels that neighbouring tiles share at least, besides those over which they are blended (a
            thirty-second of the tile). 0 cuts without blending.

    Returns:
        The tiles.

    Raises:
        PredictError: If `tile` or `overlap` is not allowed.
    """
    if tile < MIN_TILE or tile % ALIGNMENT:
        near = max(MIN_TILE, round(tile / ALIGNMENT) * ALIGNMENT)
        raise PredictError(f"tile={tile}: expected a multiple of {ALIGNMENT}, at least {MIN_TILE} (--tile {near})")
    blended = tile // ALIGNMENT
    # The distance, a multiple of 32, is at least twice the blended pixels: no pixel belongs to three tiles.
    largest = tile - blended - math.ceil(2 * blended / ALIGNMENT) * ALIGNMENT
    if not 0 <= overlap <= largest:
        raise PredictError(f"overlap={overlap}: expected 0 to {largest} for tiles of {tile} pixels (--overlap)")
    if overlap == 0:
        blended = 0
    step = (tile - overlap - blended) // ALIGNMENT * ALIGNMENT
    rows, columns = (_spans(length, tile, step, blended) for length in (height, width))
    return Tiling((min(tile, height), min(tile, width)), rows, columns, step, blended)


def _spans(length: int, tile: int, step: int, blended: int) -> tuple[Span, ...]:
    """Divide one axis into overlapping tiles."""
    if length <= tile:
        return (Span(0, 0, length, 0, 0),)
    starts = [*range(0, length - tile, step), length - tile]
    # The blended pixels are in the middle of the overlap.
    seams = [(right + left + tile - blended) // 2 for left, right in itertools.pairwise(starts)]
    firsts, lasts = [0, *seams], [*(seam + blended for seam in seams), length]
    end = len(starts) - 1
    return tuple(
        Span(starts[i], firsts[i], lasts[i], blended if i > 0 else 0, blended if i < end else 0)
        for i in range(len(starts))
    )
