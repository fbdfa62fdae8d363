"""Changes of masks, compared with slow and simple code."""

from __future__ import annotations

import sys
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from segnets.card import Decoding
from segnets.errors import PredictError
from segnets.inference.maps import confidence, decode_mask
from segnets.inference.postprocess import PostProcessing
from segnets.inference.resized_logits import ResizedLogits

ARGMAX, PLANES = Decoding(), Decoding("multilabel")
CLASSES = ("a", "b", "c")
Mask = npt.NDArray[np.uint8]


def _maps(mask: Mask, classes: int = 3) -> ResizedLogits:
    logits = torch.nn.functional.one_hot(torch.from_numpy(mask).long(), classes).permute(2, 0, 1).float()
    return ResizedLogits(logits.contiguous(), *mask.shape)


def _apply(changes: PostProcessing, mask: Mask, decoding: Decoding = ARGMAX) -> Mask:
    maps = _maps(mask if mask.ndim == 2 else mask[0])
    result: Mask = changes.apply(mask.copy(), maps, decoding, CLASSES)  # type: ignore[assignment]
    return result


def _regions(inside: npt.NDArray[np.bool_], corners: bool) -> list[set[tuple[int, int]]]:
    """Return connected regions, by flood fill."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)] + [(1, 1), (1, -1), (-1, 1), (-1, -1)] * corners
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(inside), strict=True)}
    regions = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            for dy, dx in steps:
                if (y + dy, x + dx) in left:
                    left.remove((y + dy, x + dx))
                    edge.append((y + dy, x + dx))
        regions.append(region)
    return regions


def _blobs(seed: int, size: int = 24) -> Mask:
    random = np.random.default_rng(seed)
    noise = torch.from_numpy(random.normal(size=(1, 3, size // 3, size // 3)))
    return torch.nn.functional.interpolate(noise, size=[size, size]).argmax(1)[0].to(torch.uint8).numpy()


@pytest.mark.parametrize("seed", range(6))
def test_small_regions_take_the_class_of_the_nearest_pixel(seed: int) -> None:
    mask = _blobs(seed)
    small = np.zeros(mask.shape, bool)
    for class_id in range(3):
        for region in _regions(mask == class_id, corners=False):
            if len(region) < 20:
                small[tuple(zip(*region, strict=True))] = True
    assert 0 < small.sum() < small.size
    result = _apply(PostProcessing(min_area=20), mask)
    np.testing.assert_array_equal(result[~small], mask[~small])
    kept = np.argwhere(~small)
    for y, x in np.argwhere(small):
        distances = ((kept - (y, x)) ** 2).sum(1)
        nearest = {int(mask[tuple(each)]) for each in kept[distances == distances.min()]}
        assert int(result[y, x]) in nearest


@pytest.mark.parametrize("seed", range(6))
def test_holes_are_filled_class_by_class(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.where(random.random((24, 24)) < 0.1, random.integers(0, 3, (24, 24)), _blobs(seed)).astype(np.uint8)
    expected = mask.copy()
    for class_id in range(3):
        for region in _regions(expected != class_id, corners=True):
            ys, xs = zip(*region, strict=True)
            inside = min(ys) > 0 and min(xs) > 0 and max(ys) < len(mask) - 1 and max(xs) < len(mask) - 1
            if inside and len(region) <= 30:
                expected[ys, xs] = class_id
    assert (expected != mask).any()
    np.testing.assert_array_equal(_apply(PostProcessing(fill_holes=30), mask), expected)


def test_a_mask_of_small_regions_only_stays() -> None:
    mask = _blobs(0)
    np.testing.assert_array_equal(_apply(PostProcessing(min_area=1000), mask), mask)


def test_uncertain_pixels_become_a_new_class() -> None:
    maps = ResizedLogits(torch.randn(3, 12, 17, generator=torch.Generator().manual_seed(0)), 12, 17)
    changes = PostProcessing(min_confidence=0.6)
    mask = decode_mask(maps, ARGMAX)
    expected = np.where(confidence(maps, ARGMAX) < 0.6, 3, mask)
    result = changes.apply(mask, maps, ARGMAX, CLASSES)
    np.testing.assert_array_equal(result, expected)
    assert 0 < (result == 3).mean() < 1
    classes, palette = changes.classes_after(CLASSES, [(0, 0, 0), (255, 255, 255), (1, 2, 3)], ARGMAX)
    assert classes == (*CLASSES, "unsure")
    assert palette[3] == (255, 0, 255)


def test_the_colour_of_unsure_pixels_is_new() -> None:
    bright = [(255, 255, 255), (255, 0, 255), (255, 255, 0), (0, 255, 255), (254, 254, 254)]
    classes, palette = PostProcessing(min_confidence=0.5).classes_after([*"abcde"], bright, ARGMAX)
    assert classes == (*"abcde", "unsure")
    assert palette == (*bright, (254, 0, 254))


def test_the_257th_class_needs_16_bits() -> None:
    maps = ResizedLogits(torch.randn(256, 5, 5, generator=torch.Generator().manual_seed(0)), 5, 5)
    mask = decode_mask(maps, ARGMAX)
    result = PostProcessing(min_confidence=0.999).apply(mask, maps, ARGMAX, [str(n) for n in range(256)])
    assert mask.dtype == np.uint8
    assert result.dtype == np.uint16
    assert (result == 256).all()


def test_other_classes_become_one() -> None:
    mask = _blobs(1)
    for only in (("c", "a"), (2, 0), ("2", "0")):
        changes = PostProcessing(only=only)
        np.testing.assert_array_equal(_apply(changes, mask), np.where(mask == 1, 3, mask))
        assert changes.classes_after(CLASSES, [(9, 9, 9)] * 3, ARGMAX) == (
            (*CLASSES, "other"),
            ((9, 9, 9),) * 3 + ((0, 0, 0),),
        )


def test_planes_are_changed_one_by_one() -> None:
    planes = np.stack([_blobs(seed) == 1 for seed in range(3)]).astype(np.uint8)
    result = _apply(PostProcessing(min_area=20, fill_holes=30, only=("a", "b")), planes, PLANES)
    assert not result[2].any()
    for plane in range(2):
        expected = _apply(PostProcessing(fill_holes=30), _without_small(planes[plane]))
        np.testing.assert_array_equal(result[plane] == 1, expected == 1)


def _without_small(plane: Mask) -> Mask:
    plane = plane.copy()
    for region in _regions(plane == 1, corners=False):
        if len(region) < 20:
            plane[tuple(zip(*region, strict=True))] = 0
    return plane


def test_functions_come_last() -> None:
    mask = _blobs(2)
    result = _apply(PostProcessing(only=("a",), functions=(lambda each: each + 1,)), mask)
    np.testing.assert_array_equal(result, np.where(mask == 0, 1, 4))
    with pytest.raises(PredictError, match=r"lambda.*whole numbers"):
        _apply(PostProcessing(functions=(lambda each: each[1:],)), mask)
    with pytest.raises(PredictError, match=r"sqrt.*whole numbers"):
        _apply(PostProcessing(functions=(cast("Any", np.sqrt),)), mask)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_confidence": 1.5}, "min_confidence=1.5"),
        ({"min_area": -1}, "min_area=-1"),
        ({"only": ("d",)}, "only='d'.*expected a, b, c"),
        ({"only": (7,)}, "only=7.*0 to 2"),
        ({"only": (-1,)}, "only=-1.*0 to 2"),
        ({"only": "a"}, r"only='a'.*expected a tuple of names or ids"),
        ({"only": (1.5,)}, r"only=\(1.5,\).*expected a tuple of names or ids"),
    ],
)
def test_bad_values(values: dict[str, object], message: str) -> None:
    with pytest.raises(PredictError, match=message):
        PostProcessing(**values).classes_after(CLASSES, [(0, 0, 0)] * 3, ARGMAX)  # type: ignore[arg-type]


def test_a_plane_per_class_has_no_unsure_pixels() -> None:
    with pytest.raises(PredictError, match="plane per class"):
        PostProcessing(min_confidence=0.5).classes_after(CLASSES, [(0, 0, 0)] * 3, PLANES)


def test_a_missing_scipy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(PredictError, match=r"segnets\[regions\]"):
        PostProcessing(min_area=3)
