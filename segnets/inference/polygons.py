"""Polygons of the regions in a mask, along the edges of the pixels, as GeoJSON.

A region is a set of pixels of one class that are connected through their sides. Its corners are integers: (0, 0) is the
upper left corner of the image, x points right, y points down, and the pixel in row r and column c covers c..c+1 and
r..r+1. So a polygon covers exactly its region, and filling all polygons reproduces the mask.

The rings are valid by OGC's rules: a ring visits a corner once. Two rings of a polygon may touch at a corner. Exterior
rings have a positive area by the shoelace formula and holes a negative one. That is the order of RFC 7946
(counterclockwise) if y points up. On a screen, with y pointing down, an exterior ring runs clockwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segnets.errors import ImageError
from segnets.inference.masks import VOID

# The sides of a pixel, in the order in which a boundary passes them. The region is to the right of the boundary on a
# screen: rightwards along the top, down the right side, leftwards along the bottom, up the left side.
_TOP, _RIGHT, _BOTTOM, _LEFT = range(4)
# The pixel across the corner at the end of each side: row and column, relative to the pixel.
_ACROSS = ((-1, 1), (1, 1), (1, -1), (-1, -1))
# The corner at the start of each side: x and y, relative to the pixel's column and row.
_CORNER = ((0, 0), (1, 0), (1, 1), (0, 1))


@dataclass(slots=True, eq=False)
class Region:
    """Connected pixels of one class.

    Attributes:
        class_id: Id of the class.
        area: Number of pixels.
        rings: Closed rings of corners (x, y), each of shape (n, 2), int64, with the first corner repeated at the end.
            The exterior ring comes first, then the holes.
    """

    class_id: int
    area: int
    rings: tuple[npt.NDArray[np.int64], ...]


def feature_collection(mask: npt.NDArray[np.integer], classes: Sequence[str]) -> dict[str, Any]:
    """Describe the regions of a mask as a GeoJSON FeatureCollection, one Polygon with its holes per region.

    Args:
        mask: Class ids of shape (H, W), or planes of 0 and 1 of shape (C, H, W).
        classes: One name per class id. The id 255 may have none; it marks pixels to ignore, and is left out.

    Returns:
        The collection. Each feature has the properties "class" (the name), "id" (the class id) and "area" (in pixels).
        Features are in the order of the ids, then from top to bottom. The member "size" is [H, W].

    Raises:
        ImageError: If the mask has the wrong shape, or contains an id without a class.
    """
    features = []
    for region in _all_regions(mask):
        if region.class_id >= len(classes):
            if region.class_id == VOID and mask.ndim == 2:
                continue
            raise ImageError(f"the mask has the id {region.class_id}; expected 0..{len(classes) - 1}")
        features.append(
            {
                "type": "Feature",
                "properties": {"class": classes[region.class_id], "id": region.class_id, "area": region.area},
                "geometry": {"type": "Polygon", "coordinates": [ring.tolist() for ring in region.rings]},
            }
        )
    return {"type": "FeatureCollection", "size": list(mask.shape[-2:]), "features": features}


def _all_regions(mask: npt.NDArray[np.integer]) -> list[Region]:
    if mask.ndim == 2:
        return regions(mask)
    if mask.ndim != 3:
        raise ImageError(f"mask of shape {mask.shape}: expected (H, W), or planes (C, H, W)")
    return [
        Region(class_id, region.area, region.rings)
        for class_id, plane in enumerate(mask)
        for region in regions(plane != 0)
        if region.class_id
    ]


def regions(mask: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> list[Region]:
    """Trace the regions of a mask.

    Time grows with the number of pixels and of corners: about a second for a few million corners.

    Args:
        mask: Ids of shape (H, W), at least 0.

    Returns:
        The regions in the order of their ids, then by their first pixel from top to bottom and left to right.

    Raises:
        ImageError: If the mask has the wrong shape.
    """
    if mask.ndim != 2:
        raise ImageError(f"mask of shape {mask.shape}: expected (H, W)")
    if not mask.size:
        return []
    sides = _Sides(mask)
    following = sides.following()
    order, first = _cycles(following)
    # So far, boundaries turn around one pixel at each corner. If a ring passes a corner twice, both passages are
    # exchanged, which splits the ring into two that touch.
    if len(candidates := np.flatnonzero(sides.saddle)):
        ring_of = _ring_of(order, first)
        other = sides.across[candidates]
        same = ring_of[candidates] == ring_of[other]
        following[candidates[same]] = other[same]
        order, first = _cycles(following)
    return _assembled(mask, sides, order, first)


class _Sides:
    """Maximal straight pieces of all boundaries, in the order of top, right, bottom and left sides.

    Attributes:
        start_y: Row of the pixel at the start of each piece, (n,).
        start_x: Its column.
        offsets: Index of the first piece of each kind of side, and n, (5,).
        around: For each piece, the piece around the same pixel that may follow.
        across: The piece of the pixel across the corner that may follow.
        turns: Whether the boundary turns around the pixel at the piece's end: there is no other way.
        saddle: Whether it turns around the pixel, and the pixel across the corner has the same class.
    """

    def __init__(self, mask: npt.NDArray[Any]) -> None:
        height, width = mask.shape
        self.shape = (height, width)
        vertical = np.ones((height, width + 1), dtype=bool)  # the edge between the pixels x - 1 and x
        np.not_equal(mask[:, 1:], mask[:, :-1], out=vertical[:, 1:-1])
        horizontal = np.ones((height + 1, width), dtype=bool)
        np.not_equal(mask[1:], mask[:-1], out=horizontal[1:-1])
        edge = (horizontal[:-1], vertical[:, 1:], horizontal[1:], vertical[:, :-1])
        # A pixel's key is its place in the scan by rows for horizontal pieces, by columns for vertical ones.
        flat = np.flatnonzero(horizontal)
        y, x = np.divmod(np.flatnonzero(vertical), width + 1)
        left, right = x < width, x > 0
        self.runs = y[left] * width + x[left]  # first pixels of the runs of equal ids in the rows
        scanned = (
            flat[flat < height * width],
            np.sort((x[right] - 1) * height + y[right]),
            flat[flat >= width] - width,
            np.sort(x[left] * height + y[left]),
        )
        pieces = [
            self._pieces(side, scanned[side], vertical if side in (_TOP, _BOTTOM) else horizontal) for side in range(4)
        ]
        # The pixels at the start and the end of the pieces, in the direction of the boundary. The starts are ascending.
        self._keys = (pieces[_TOP][0], pieces[_RIGHT][0], pieces[_BOTTOM][1], pieces[_LEFT][1])
        ends = (pieces[_TOP][1], pieces[_RIGHT][1], pieces[_BOTTOM][0], pieces[_LEFT][0])
        self.offsets = np.concatenate(([0], np.cumsum([len(each) for each in self._keys])))
        start = [self._pixel(side, keys) for side, keys in enumerate(self._keys)]
        self.start_y = np.concatenate([y for y, _ in start])
        self.start_x = np.concatenate([x for _, x in start])

        around, across, turns, saddle = [], [], [], []
        for side, keys in enumerate(ends):
            y, x = self._pixel(side, keys)
            step_y, step_x = _ACROSS[side]
            other_y = (y + step_y).clip(0, height - 1)
            other_x = (x + step_x).clip(0, width - 1)
            after, before = (side + 1) % 4, (side - 1) % 4
            turn = edge[after][y, x]
            inside = (other_y == y + step_y) & (other_x == x + step_x)
            crossed = turn & inside & (mask[y, x] == mask[other_y, other_x])
            around.append(np.where(turn, self._find(after, y, x), 0))
            across.append(np.where(crossed | ~turn, self._find(before, other_y, other_x), 0))
            turns.append(turn)
            saddle.append(crossed)
        self.around = np.concatenate(around)
        self.across = np.concatenate(across)
        self.turns = np.concatenate(turns)
        self.saddle = np.concatenate(saddle)

    def following(self) -> npt.NDArray[np.int64]:
        """Return the piece that follows each piece, turning around the same pixel if both ways are possible."""
        return np.where(self.turns, self.around, self.across)

    def left_side(self, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the pieces that contain the left sides of pixels."""
        return self._find(_LEFT, y, x)

    def _pieces(
        self, side: int, keys: npt.NDArray[np.int64], between: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the keys of the first and last pixels of the pieces, along the scan.

        Args:
            side: Kind of the pieces.
            keys: Keys of the pixels that have an edge on this side, ascending.
            between: Whether there is an edge between a pixel and the one before it in the scan.
        """
        begins = between[self._pixel(side, keys)]
        begins |= np.append(True, keys[1:] != keys[:-1] + 1)
        return keys[begins], keys[np.append(begins[1:], True)]

    def _pixel(self, side: int, keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return row and column for keys."""
        height, width = self.shape
        if side in (_TOP, _BOTTOM):
            y, x = np.divmod(keys, width)
        else:
            x, y = np.divmod(keys, height)
        return y, x

    def _find(self, side: int, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the pieces of one kind that start at pixels; for left sides also that contain them."""
        height, width = self.shape
        keys = y * width + x if side in (_TOP, _BOTTOM) else x * height + y
        pieces: npt.NDArray[np.int64] = self.offsets[side] + np.searchsorted(self._keys[side], keys)
        return pieces


def _cycles(following: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the cycles of a permutation one after the other, and where each begins."""
    step = following.tolist()
    unseen = bytearray(b"\1" * len(step))
    order: list[int] = []
    first: list[int] = []
    add = order.append
    for each in range(len(step)):
        if unseen[each]:
            first.append(len(order))
            place = each
            while unseen[place]:
                unseen[place] = 0
                add(place)
                place = step[place]
    return np.array(order, dtype=np.int64), np.array(first, dtype=np.int64)


def _ring_of(order: npt.NDArray[np.int64], first: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the ring of each piece."""
    ring_of = np.empty(len(order), dtype=np.int64)
    ring_of[order] = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(order))))
    return ring_of


def _assembled(
    mask: npt.NDArray[Any], sides: _Sides, order: npt.NDArray[np.int64], first: npt.NDArray[np.int64]
) -> list[Region]:
    """Compute the corners of the rings, and give each hole to its region."""
    corner = np.repeat(np.array(_CORNER), np.diff(sides.offsets), axis=0)
    corners = np.stack([sides.start_x, sides.start_y], axis=1) + corner
    corners = corners[order]
    stops = np.append(first[1:], len(order))
    after = np.arange(1, len(order) + 1)
    after[stops - 1] = first
    x, y = corners[:, 0], corners[:, 1]
    areas = np.add.reduceat(x * y[after] - x[after] * y, first) // 2

    holes = np.flatnonzero(areas < 0)
    owner = np.arange(len(first))
    if len(holes):
        owner[holes] = _left_of(sides, _ring_of(order, first), holes)
        while (areas[owner] < 0).any():  # the next ring may be a hole of the same region; its left end is further left
            owner = owner[owner]
    covered = np.zeros(len(first), dtype=np.int64)
    np.add.at(covered, owner, areas)
    ids = mask[sides.start_y[order[first]], sides.start_x[order[first]]]

    # Each ring with its first corner repeated at the end.
    closed = corners[np.insert(np.arange(len(order)), stops, first)]
    bounds = (stops + np.arange(1, len(stops) + 1)).tolist()
    rings = [closed[begin:stop] for begin, stop in zip([0, *bounds], bounds, strict=False)]
    inner: dict[int, list[npt.NDArray[np.int64]]] = {}
    for hole in holes.tolist():
        inner.setdefault(int(owner[hole]), []).append(rings[hole])
    outer = np.flatnonzero(areas > 0)
    outer = outer[np.argsort(ids[outer], kind="stable")]
    return [
        Region(class_id, area, (rings[ring], *inner.get(ring, ())))
        for ring, class_id, area in zip(outer.tolist(), ids[outer].tolist(), covered[outer].tolist(), strict=True)
    ]


def _left_of(sides: _Sides, ring_of: npt.NDArray[np.int64], holes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return, for each hole, a ring of the same region that extends further left.

    The pixel at the left end of a hole belongs to the region. The run of equal pixels that ends there begins at the
    other ring.
    """
    width = sides.shape[1]
    begin, stop = sides.offsets[_RIGHT], sides.offsets[_RIGHT + 1]
    ring, y, x = ring_of[begin:stop], sides.start_y[begin:stop], sides.start_x[begin:stop]
    by_ring = np.lexsort((y, x, ring))
    chosen = by_ring[np.searchsorted(ring[by_ring], holes)]
    y, x = y[chosen], x[chosen]
    start = sides.runs[np.searchsorted(sides.runs, y * width + x, side="right") - 1] % width
    result: npt.NDArray[np.int64] = ring_of[sides.left_side(y, start)]
    return result
