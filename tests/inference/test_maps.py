"""Masks, probabilities and confidences in bands equal those of torch on the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segnets.card import Decoding
from segnets.inference import borders, resized_logits
from segnets.inference import maps as module
from segnets.inference.maps import AveragedMaps, FlippedMaps, LogitMaps, confidence, decode_mask, entropy, probabilities
from segnets.inference.resized_logits import ResizedLogits
from segnets.segmenter import Decode

ARGMAX, THRESHOLD, MULTILABEL = Decoding(), Decoding("threshold", 0.3), Decoding("multilabel", 0.6)
SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (5, 7)),
    ((3, 2), (1, 1)),
    ((8, 9), (64, 75)),
    ((65, 33), (65, 33)),
    ((33, 65), (33, 131)),
    ((33, 65), (47, 65)),
    ((65, 87), (45, 60)),
    ((16, 16), (1, 4097)),
    ((16, 16), (4097, 1)),
]
RESULTS: dict[str, Callable[[LogitMaps, Decoding], Any]] = {
    "mask": decode_mask,
    "confidence": confidence,
    "entropy": entropy,
    "probabilities": probabilities,
}


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 4


def resized(logits: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(logits[None].float(), size=(height, width), mode="bilinear", align_corners=False)[0]


def assert_decodes_as_torch(logits: Tensor, height: int, width: int) -> None:
    """The mask has the largest of torch's logits at every pixel, but for rounding, and nearly always torch's class."""
    mask = decode_mask(ResizedLogits(logits, height, width), ARGMAX)
    assert mask.shape == (height, width)
    expected = resized(logits, height, width)
    largest, ids = expected.max(0)
    ours = torch.from_numpy(mask.astype(np.int64))
    assert (largest - expected.gather(0, ours[None])[0]).max() < 1e-5
    assert (ours != ids).sum() <= math.ceil(ids.numel() / 10_000)


@pytest.mark.parametrize(("small", "size"), SIZES)
def test_masks_equal_the_resize_of_torch(small: tuple[int, int], size: tuple[int, int]) -> None:
    logits = random_logits(5, *small)
    torch.testing.assert_close(ResizedLogits(logits, *size).band(0, size[0]), resized(logits, *size), rtol=0, atol=1e-5)
    assert_decodes_as_torch(logits, *size)


def random_sizes(count: int) -> list[tuple[int, ...]]:
    """Sizes from 1 to 4097 of logits and image, small ones more often."""
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.uniform(0, math.log(4098), (count, 4))).astype(int)
    # At most 2 million pixels, as a test must be short.
    sizes[:, 1::2] = np.minimum(sizes[:, 1::2], np.maximum(1, 2_000_000 // sizes[:, 0::2]))
    return [tuple(map(int, each)) for each in sizes]


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.full)])
def test_random_sizes_equal_the_resize_of_torch(count: int) -> None:
    for number, (h, w, height, width) in enumerate(random_sizes(count)):
        logits = region_logits(6, h, w) if number % 2 else random_logits(3, h, w, seed=h)
        assert_decodes_as_torch(logits, height, width)


def region_logits(channels: int, h: int, w: int) -> Tensor:
    """Logits of a picture of large regions, with some noise."""
    regions = F.interpolate(random_logits(1, channels, 3, 4), size=(h, w), mode="bicubic")[0]
    return regions + random_logits(channels, h, w) / 50


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("small", "through", "size"),
    [
        ((9, 12), (65, 90), (45, 62)),
        ((9, 12), (65, 90), (65, 90)),
        ((9, 12), (65, 90), (200, 77)),
        ((1, 2), (7, 9), (1, 30)),
        ((5, 4), (3, 2), (8, 1)),
    ],
)
def test_two_resizes_at_once_equal_both_of_torch(
    small: tuple[int, int], through: tuple[int, int], size: tuple[int, int], align_corners: bool
) -> None:
    logits = region_logits(6, *small)
    inner = F.interpolate(logits[None], size=through, mode="bilinear", align_corners=align_corners)[0]
    expected = resized(inner, *size)
    maps = ResizedLogits(logits, *size, through=through, align_corners=align_corners)
    torch.testing.assert_close(maps.band(0, size[0]), expected, rtol=0, atol=2e-5)
    assert (torch.from_numpy(decode_mask(maps, ARGMAX)).long() != expected.max(0).indices).sum() <= 1


@pytest.mark.parametrize(
    "part", [(0, 90, 0, 130), (0, 90, 3, 130), (17, 18, 0, 1), (13, 77, 40, 129), (89, 90, 129, 130)]
)
@pytest.mark.parametrize("through", [None, (45, 61), (97, 131)])
@pytest.mark.parametrize("kind", ["one", "flipped", "averaged"])
def test_a_part_equals_the_same_part_of_the_whole(
    kind: str, through: tuple[int, int] | None, part: tuple[int, int, int, int]
) -> None:
    maps: LogitMaps = ResizedLogits(region_logits(6, 12, 17), 90, 130, through=through, align_corners=True)
    if kind != "one":
        maps = FlippedMaps(maps)
    if kind == "averaged":
        maps = AveragedMaps([maps, ResizedLogits(random_logits(6, 30, 20), 90, 130)], ARGMAX)
    top, bottom, left, right = part
    cropped = maps.crop(*part)
    assert (cropped.channels, cropped.height, cropped.width) == (6, bottom - top, right - left)
    expected = maps.band(top, bottom)[:, :, left:right]
    torch.testing.assert_close(cropped.band(0, bottom - top), expected, rtol=0, atol=2e-5)
    if bottom - top > 1:
        assert torch.equal(cropped.band(1, bottom - top), cropped.band(0, bottom - top)[:, 1:])
    mask = decode_mask(maps, ARGMAX)[top:bottom, left:right]
    assert np.count_nonzero(decode_mask(cropped, ARGMAX) != mask) <= 1


@pytest.mark.parametrize("through", [None, (97, 131)])
@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0, 20.0])
def test_masks_by_cells_equal_those_of_all_pixels(
    noise: float, through: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resized_logits, "_MOST_MIXED", 1)
    monkeypatch.setattr(borders, "_PIECE", 5000)
    for height, width in ((161, 203), (90, 130), (40, 400)):
        logits = region_logits(7, 20, 25) + noise * random_logits(7, 20, 25, seed=1)
        maps = ResizedLogits(logits, height, width, through=through)
        found = maps.ids()
        assert found is not None
        np.testing.assert_array_equal(found, all_pixels(maps, monkeypatch))


def all_pixels(maps: ResizedLogits, monkeypatch: pytest.MonkeyPatch) -> npt.NDArray[Any]:
    with monkeypatch.context() as patched:
        patched.setattr(ResizedLogits, "ids", lambda _: None)
        return decode_mask(maps, ARGMAX)


def test_equal_logits_give_the_lowest_id_at_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = region_logits(4, 20, 25)[[2, 0, 2, 1, 0, 3]]
    maps = ResizedLogits(logits, 100, 120)
    found = maps.ids()
    assert found is not None
    assert set(np.unique(found)) <= {0, 1, 3, 5}
    np.testing.assert_array_equal(found, all_pixels(maps, monkeypatch))


def test_only_cells_at_borders_are_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def counting(*arguments: Any) -> None:
        counted.append(len(arguments[4][0]))
        borders.decode_cells(*arguments)

    monkeypatch.setattr(resized_logits, "decode_cells", counting)
    logits = torch.zeros(3, 10, 10)
    logits[0, :, :5] = logits[2, :, 5:] = 1
    mask = decode_mask(ResizedLogits(logits, 80, 80), ARGMAX)
    assert mask[:, :40].max() == 0
    assert mask[:, 40:].min() == 2
    assert counted == [11]  # those of the columns between the classes; the first row of cells is divided
    # Where nearly all cells are at borders, all logits are resized.
    assert ResizedLogits(random_logits(9, 10, 10), 80, 80).ids() is None


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("small", "size"), [((8, 9), (64, 75)), ((65, 87), (45, 60)), ((6, 2), (19, 1))])
def test_no_bit_depends_on_bands_or_threads(
    small: tuple[int, int], size: tuple[int, int], channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = random_logits(7, *small)
    if channels_last:
        logits = logits.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    plain = ResizedLogits(logits, *size, through=(31, 37))
    averaged = AveragedMaps([plain, FlippedMaps(plain)], ARGMAX)
    both = AveragedMaps([plain, FlippedMaps(plain)], MULTILABEL)

    def results() -> list[Any]:
        found = [function(maps, ARGMAX) for maps in (plain, averaged) for function in RESULTS.values()]
        return found + [function(maps, MULTILABEL) for maps in (plain, both) for function in RESULTS.values()]

    expected = results()
    threads = torch.get_num_threads()
    monkeypatch.setattr(module, "_MIN_ROWS", 1)
    try:
        for count, limit in ((1, 1), (2, 999), (2, 10_000), (3, 1 << 24)):
            torch.set_num_threads(count)
            monkeypatch.setattr(module, "BAND", limit)
            monkeypatch.setattr(resized_logits, "BAND", limit)
            for ours, other in zip(results(), expected, strict=True):
                np.testing.assert_array_equal(ours, other)
    finally:
        torch.set_num_threads(threads)


def test_a_band_is_a_part_of_the_whole_and_new() -> None:
    for size in ((40, 60), (9, 13)):  # the second is that of the logits
        maps = ResizedLogits(random_logits(3, 9, 13), *size)
        whole = maps.band(0, size[0])
        part = maps.band(2, 5)
        assert torch.equal(part, whole[:, 2:5])
        part.zero_()
        assert torch.equal(maps.band(2, 5), whole[:, 2:5])
    with pytest.raises(ValueError, match="rows 2 to 10 of 9"):
        maps.band(2, 10)


@pytest.mark.parametrize(("channels", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_ids_above_255_take_16_bits(channels: int, dtype: type[np.generic]) -> None:
    logits = torch.zeros(channels, 2, 3)
    logits[channels - 1, 1] = 1
    mask = decode_mask(ResizedLogits(logits, 2, 3), ARGMAX)
    assert mask.dtype == dtype
    assert mask.tolist() == [[0] * 3, [channels - 1] * 3]  # ties give the lowest id


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_decode_as_in_segment(value: float) -> None:
    logits = random_logits(4, 6, 7)
    logits[2, 1:3, 2:5] = value
    logits[1] = -float("inf")
    mask = decode_mask(ResizedLogits(logits, 6, 7), ARGMAX)
    assert mask.tolist() == Decode()(logits[None], 6, 7)[0].tolist()


@pytest.mark.parametrize(("decoding", "channels"), [(ARGMAX, 5), (THRESHOLD, 1), (MULTILABEL, 3)])
def test_results_equal_their_definitions(decoding: Decoding, channels: int) -> None:
    logits = random_logits(channels, 6, 7)
    maps = ResizedLogits(logits, 20, 30)
    whole = resized(logits, 20, 30).double()
    mask = decode_mask(maps, decoding)
    assert mask.tolist() == Decode(decoding)(whole.float()[None], 20, 30)[0].tolist()
    # For each pixel, the distributions that are independent of each other: (number of them, outcomes, H, W).
    if decoding.rule == "argmax":
        parts = whole.softmax(0)[None]
    else:
        parts = torch.stack((1 - whole.sigmoid(), whole.sigmoid()), 1)
    ids = torch.from_numpy(mask.astype(np.int64)).reshape(len(parts), 1, 20, 30)
    expected: dict[str, Tensor] = {
        "confidence": parts.gather(1, ids)[:, 0].amin(0),
        "entropy": -(parts * parts.log()).sum((0, 1)),
        "probabilities": parts[:, 1] if decoding.rule == "multilabel" else parts[0],
    }
    for name, values in expected.items():
        ours = RESULTS[name](maps, decoding)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, values.numpy(), atol=2e-6)


def test_certain_probabilities_have_no_entropy() -> None:
    logits = torch.tensor([200.0, -200.0, -float("inf")]).reshape(3, 1, 1)
    maps = ResizedLogits(logits, 1, 1)
    assert entropy(maps, ARGMAX).item() == 0
    assert confidence(maps, ARGMAX).item() == 1
    assert entropy(maps, MULTILABEL).item() == 0
    assert probabilities(maps, MULTILABEL).tolist() == [[[1.0]], [[0.0]], [[0.0]]]


@pytest.mark.parametrize(("decoding", "channels"), [(ARGMAX, 5), (THRESHOLD, 1), (MULTILABEL, 3)])
def test_averages_are_those_of_the_probabilities(decoding: Decoding, channels: int) -> None:
    several = [ResizedLogits(random_logits(channels, 6, 7, seed=seed), 12, 9) for seed in range(3)]
    averaged = AveragedMaps(several, decoding)
    expected = np.mean([probabilities(each, decoding) for each in several], axis=0)
    np.testing.assert_allclose(probabilities(averaged, decoding), expected, atol=1e-6)
    if decoding.rule == "argmax":
        assert decode_mask(averaged, decoding).tolist() == expected.argmax(0).tolist()
    else:
        assert (
            decode_mask(averaged, decoding).reshape(-1, 12, 9).tolist()
            == ((expected if decoding.rule == "multilabel" else expected[1:]) > decoding.threshold).astype(int).tolist()
        )


def test_an_average_keeps_the_order_of_nearly_certain_probabilities() -> None:
    pair = [ResizedLogits(torch.tensor([[[30.0, -30.0]]]), 1, 2)] * 2
    np.testing.assert_allclose(AveragedMaps(pair, THRESHOLD).band(0, 1).numpy(), [[[30, -30]]], rtol=1e-5)


def test_an_average_of_one_is_itself_and_shapes_must_agree() -> None:
    one = ResizedLogits(random_logits(2, 3, 4), 3, 4)
    assert torch.equal(AveragedMaps([one], ARGMAX).band(0, 3), one.band(0, 3))
    for wrong in ([], [one, ResizedLogits(random_logits(2, 3, 4), 4, 4)]):
        with pytest.raises(ValueError, match="maps: expected logits of one shape"):
            AveragedMaps(wrong, ARGMAX)


def test_a_mirrored_image_gives_mirrored_maps() -> None:
    logits = random_logits(3, 6, 7)
    mirrored = FlippedMaps(ResizedLogits(logits.flip(2), 10, 15))
    torch.testing.assert_close(mirrored.band(3, 8), ResizedLogits(logits, 10, 15).band(3, 8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 0, 3), (3, 4), (0, 2, 2)])
def test_logits_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no pixels"):
        ResizedLogits(torch.zeros(shape), 4, 4)


@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS)
def test_a_rule_that_contradicts_the_channels_is_refused(function: Callable[[LogitMaps, Decoding], Any]) -> None:
    with pytest.raises(ValueError, match="a threshold needs logits of one channel, got 2"):
        function(ResizedLogits(torch.zeros(2, 3, 3), 3, 3), THRESHOLD)
    with pytest.raises(ValueError, match="at most 65536 ids"):
        function(ResizedLogits(torch.zeros(65537, 1, 1), 1, 1), ARGMAX)


def test_logits_that_need_a_gradient_are_decoded() -> None:
    logits = random_logits(3, 4, 5).requires_grad_()
    assert decode_mask(ResizedLogits(logits, 8, 8), ARGMAX).shape == (8, 8)
    with torch.inference_mode():
        inside = random_logits(3, 4, 5) + 0
    assert decode_mask(ResizedLogits(inside, 4, 5), ARGMAX).shape == (4, 5)
