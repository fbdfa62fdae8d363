"""Run-length encodings against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco

from segnets.inference import rle

# Of pycocotools' decoder.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def random_masks(count: int, seed: int) -> list[npt.NDArray[np.uint8]]:
    """Return masks of ids: noise, and noise in blocks, whose runs are longer."""
    rng = np.random.default_rng(seed)
    masks = []
    for index in range(count):
        ids = rng.integers(0, rng.integers(1, 6), rng.integers(1, 30, 2)).astype(np.uint8)
        masks.append(np.kron(ids, np.ones(rng.integers(1, 40, 2), np.uint8)) if index % 2 else ids)
    return masks


def of_pycocotools(mask: npt.NDArray[Any]) -> dict[str, Any]:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(each) for each in encoded["size"]], "counts": encoded["counts"].decode()}


CASES = [
    np.zeros((3, 4), np.uint8),
    np.ones((3, 4), np.uint8),
    np.ones((1, 1), np.uint8),
    np.eye(7, dtype=np.uint8),
    np.indices((5, 6)).sum(0).astype(np.uint8) % 2,
    np.arange(40_000).reshape(200, 200) == 39_999,  # a count of several characters
]


def check(mask: npt.NDArray[np.uint8]) -> None:
    assert rle.encode(mask) == of_pycocotools(mask != 0)
    encoded = dict(rle.encode_ids(mask))
    assert list(encoded) == np.unique(mask).tolist()
    for value, each in encoded.items():
        theirs = of_pycocotools(mask == value)
        assert each == theirs
        assert np.array_equal(rle.decode(each), mask == value)
        assert np.array_equal(coco.decode(each), mask == value)
        assert rle.area(each) == coco.area(theirs) == np.count_nonzero(mask == value)
        assert rle.bounding_box(each) == tuple(coco.toBbox(theirs).astype(int).tolist())


@pytest.mark.parametrize("mask", CASES)
def test_encodings_equal_those_of_pycocotools(mask: npt.NDArray[np.uint8]) -> None:
    check(mask)


def test_encodings_of_random_masks_equal_those_of_pycocotools() -> None:
    for mask in random_masks(30, 0):
        check(mask)


@pytest.mark.full
def test_encodings_of_many_random_masks_equal_those_of_pycocotools() -> None:
    for mask in random_masks(1000, 1):
        check(mask)


def test_counts_of_an_image_with_many_pixels_survive() -> None:
    """Differences of more than 25 bits take six characters, with both signs."""
    counts = np.array([0, 40_000_000, 1, 2, 50_000_000, 1])
    text = rle._compressed(counts)
    size = [1, int(counts.sum())]
    assert rle._checked_counts({"size": size, "counts": text}).tolist() == counts.tolist()
    assert rle.area({"size": size, "counts": text}) == coco.area({"size": size, "counts": text})


def test_an_encoding_of_no_pixel_has_no_box() -> None:
    empty = rle.encode(np.zeros((3, 4), bool))
    assert (rle.area(empty), rle.bounding_box(empty)) == (0, (0, 0, 0, 0))
    assert rle.decode({**empty, "counts": empty["counts"].encode()}).shape == (3, 4)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("", "damaged"),
        ("0", "add up"),
        ("\x00", "damaged"),
        ("é", "damaged"),
        ("P", "damaged"),  # another character should follow
        ("o" * 20 + "0", "60 bits"),
        ([12], "compressed form"),
    ],
)
def test_damaged_counts_are_refused(counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rle.decode({"size": [3, 4], "counts": counts})


def test_planes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(H, W\)"):
        list(rle.encode_ids(np.zeros((2, 3, 4), np.uint8)))
