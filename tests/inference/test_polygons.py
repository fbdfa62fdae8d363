"""Polygons against an even-odd rasteriser, and their validity against shapely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely

from segnets.errors import ImageError
from segnets.inference.polygons import feature_collection, regions


def filled(rings: Sequence[Any], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Fill rings by the even-odd rule: every vertical edge toggles the pixels to its right."""
    toggles = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    for ring in rings:
        corners = np.asarray(ring)
        assert (corners[0] == corners[-1]).all()
        for (x, y), (next_x, next_y) in zip(corners[:-1].tolist(), corners[1:].tolist(), strict=True):
            assert (x == next_x) != (y == next_y)
            if x == next_x:
                toggles[min(y, next_y) : max(y, next_y), x] += 1
    inside: npt.NDArray[np.bool_] = np.cumsum(toggles, axis=1)[:, :-1] % 2 == 1
    return inside


def check(mask: npt.NDArray[np.integer]) -> None:
    """Check that the regions are valid, connected and together give the mask."""
    result = np.full(mask.shape, -1)
    order = []
    for region in regions(mask):
        inside = filled(region.rings, mask.shape)
        assert region.area == np.count_nonzero(inside)
        assert (result[inside] == -1).all()
        result[inside] = region.class_id
        order.append((region.class_id, int(np.flatnonzero(inside)[0])))
        polygon = shapely.Polygon(region.rings[0], region.rings[1:])
        # A valid polygon has a connected interior, so its pixels are connected through sides.
        assert polygon.is_valid, shapely.is_valid_reason(polygon)
        assert polygon.area == region.area
        assert polygon.exterior.is_ccw
        assert not any(hole.is_ccw for hole in polygon.interiors)
        for ring in region.rings:  # no corner twice, and no corner on a straight line
            assert len({tuple(corner) for corner in ring.tolist()}) == len(ring) - 1
            steps = np.diff(ring, axis=0)
            assert ((steps[:, 0] == 0) != (np.roll(steps, 1, axis=0)[:, 0] == 0)).all()
    assert np.array_equal(result, mask)
    assert order == sorted(order)


def nested(size: int) -> npt.NDArray[np.uint8]:
    """Return rings of two ids, one in the other."""
    distance = np.abs(np.indices((size, size)) - size // 2).max(axis=0)
    return np.asarray(distance % 2, dtype=np.uint8)


RING = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]], np.uint8)  # two holes that touch
SHAPES = {
    "one pixel": np.zeros((1, 1), np.uint8),
    "row": np.array([[0, 1, 1, 2]], np.uint8),
    "column": np.array([[0], [1], [1], [2]], np.uint8),
    "checkerboard": (np.indices((6, 7)).sum(0) % 2).astype(np.uint8),
    "nested": nested(13),
    "touching holes": RING,
    "hole and outside touch": RING[:3],
    "hole at a hole's side": np.array([[0] * 5, [0, 1, 0, 2, 0], [0] * 5], np.uint8),
    "16 bits": np.array([[300, 300], [300, 40_000]], np.uint16),
    "bool": np.array([[False, True], [True, False]]),
    "signed": np.array([[3, 0], [0, 0]], np.int16),
}


@pytest.mark.parametrize("name", SHAPES)
def test_polygons_of_shapes_give_the_mask_back(name: str) -> None:
    check(SHAPES[name])


def random_mask(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    ids = rng.integers(0, rng.integers(1, 5), rng.integers(1, 18, 2)).astype(np.uint8)
    return np.kron(ids, np.ones(rng.integers(1, 4, 2), np.uint8))


def test_polygons_of_random_masks_give_the_mask_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        check(random_mask(rng))


@pytest.mark.full
def test_polygons_of_many_random_masks_give_the_mask_back() -> None:
    rng = np.random.default_rng(1)
    for _ in range(1000):
        check(random_mask(rng))


def test_corners_are_those_of_the_pixels() -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 1:4] = 1
    mask[1, 2] = 2
    background, frame, hole = regions(mask)
    assert background.rings[0].tolist() == [[0, 0], [5, 0], [5, 4], [0, 4], [0, 0]]
    assert background.area == 14
    square = [[1, 1], [2, 1], [2, 2], [3, 2], [3, 1], [4, 1], [4, 3], [1, 3], [1, 1]]
    assert [each.tolist() for each in frame.rings] == [square]
    assert hole.rings[0].tolist() == [[2, 1], [3, 1], [3, 2], [2, 2], [2, 1]]


def test_collection_names_the_classes_and_leaves_void_out() -> None:
    mask = np.array([[1, 1, 0], [255, 0, 1]], np.uint8)
    collection = feature_collection(mask, ["ground", "dog"])
    assert collection["type"] == "FeatureCollection"
    assert collection["size"] == [2, 3]
    assert [each["properties"] for each in collection["features"]] == [
        {"class": "ground", "id": 0, "area": 1},
        {"class": "ground", "id": 0, "area": 1},
        {"class": "dog", "id": 1, "area": 2},
        {"class": "dog", "id": 1, "area": 1},
    ]
    assert collection["features"][2]["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]],
    }
    with pytest.raises(ImageError, match=r"id 1; expected 0\.\.0"):
        feature_collection(mask, ["ground"])


def test_planes_are_traced_one_by_one() -> None:
    planes = np.zeros((3, 4, 4), np.uint8)
    planes[0, :2] = 1
    planes[2, 1:, 1:] = 1
    collection = feature_collection(planes, ["a", "b", "c"])
    assert [each["properties"]["class"] for each in collection["features"]] == ["a", "c"]
    for each, plane in zip(collection["features"], planes[[0, 2]], strict=True):
        assert np.array_equal(filled(each["geometry"]["coordinates"], (4, 4)), plane != 0)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ImageError, match="expected"):
        regions(np.zeros(4, np.uint8))
    assert regions(np.zeros((0, 4), np.uint8)) == []
