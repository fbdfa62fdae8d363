"""Preprocessing equals torchvision's preset bit for bit, in eager mode and TorchScript; bad images are refused."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from segnets.errors import ImageError
from segnets.preprocessing import Preprocess, Preprocessing, check_batch, check_input, preprocess
from segnets.resize_rules import parse_resize
from segnets.segmenter import Segmenter, logits_at, logits_to_mask, segment
from tests.oracle import torchvision

assert torchvision is not None  # must be imported before its submodules
presets = importlib.import_module("torchvision.transforms._presets")
functional = importlib.import_module("torchvision.transforms.functional")

SIZES = [(1, 1), (3, 7), (33, 130), (375, 500), (519, 521), (520, 520), (640, 427), (700, 523), (1040, 1560)]


def compiled(preprocessing: Preprocessing) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(Preprocess(preprocessing))


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equals_the_preset_of_torchvision(height: int, width: int) -> None:
    image = random_image(2 if height < 400 else 1, height, width, 3)
    expected = presets.SemanticSegmentation(resize_size=520)(image.permute(0, 3, 1, 2).contiguous())
    assert torch.equal(preprocess(image), expected)
    assert torch.equal(compiled(Preprocessing())(image), expected)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_every_interpolation_equals_torchvision(interpolation: str, antialias: bool) -> None:
    antialias = antialias and interpolation != "nearest"
    image = random_image(1, 90, 71, 3)
    mode = functional.InterpolationMode(interpolation)
    resized = functional.resize(image.permute(0, 3, 1, 2), [40, 55], interpolation=mode, antialias=antialias)
    expected = functional.normalize(resized / 255.0, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    chosen = Preprocessing(
        resize="fixed",
        size=(40, 55),
        interpolation=interpolation,
        antialias=antialias,
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.6, 0.7),
    )
    assert torch.equal(preprocess(image, chosen), expected)


@pytest.mark.parametrize(
    ("factor", "sizes"),
    [
        # A half is rounded up, also where Python's round() takes the even number.
        (0.5, {(1, 1): (1, 1), (3, 5): (2, 3), (9, 11): (5, 6), (33, 130): (17, 65)}),
        (1.5, {(1, 1): (2, 2), (3, 5): (5, 8), (33, 131): (50, 197), (375, 500): (563, 750)}),
        (2.0, {(1, 1): (2, 2), (33, 131): (66, 262)}),
        (0.29, {(1, 1): (1, 1), (100, 300): (29, 87)}),  # 100 * 0.29 is 28.999999999999996
        (0.1, {(1, 4): (1, 1), (1, 5): (1, 1), (14, 15): (1, 2)}),
        (1.0, {(7, 9): (7, 9)}),
    ],
)
def test_a_factor_scales_both_sides(factor: float, sizes: dict[tuple[int, int], tuple[int, int]]) -> None:
    chosen = Preprocessing(resize="scale", size=factor)
    script = compiled(chosen)
    for size, expected in sizes.items():
        assert script.output_size(*size) == Preprocess(chosen).output_size(*size) == expected
        image = random_image(2, *size, 3)
        as_fixed = preprocess(image, dataclasses.replace(chosen, resize="fixed", size=expected))
        assert torch.equal(preprocess(image, chosen), as_fixed)
        assert torch.equal(script(image), as_fixed)


def test_a_factor_that_makes_an_image_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Preprocessing(resize="scale", size=3)
    message = r"image: 5000x4000 scaled by 3 would be 15000x12000, too large .* \(--tile 1024\)"
    with pytest.raises(ImageError, match=message):
        Preprocess(chosen).output_size(5000, 4000)
    with pytest.raises(torch.jit.Error, match=message):
        compiled(chosen).output_size(5000, 4000)
    assert Preprocess(dataclasses.replace(chosen, size=0.9)).output_size(50000, 50000) == (45000, 45000)
    monkeypatch.setattr("segnets.memory.available_memory", lambda: 1 << 30)
    with pytest.raises(ImageError, match=r"1 images, 9000x9000 at the network's input, take at least 1\.3 GB"):
        check_batch(torch.zeros(1, 1, 1, 3, dtype=torch.uint8).expand(1, 3000, 3000, 3), Preprocess(chosen), 1)


@pytest.mark.parametrize(
    "text", ["x0", "x-1", "xinf", "xnan", "x1e1", "x100", "x0.01", "x1_0", "x2.", "x\N{SUPERSCRIPT TWO}"]
)
def test_other_factors_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a factor from 0\.1 to 10 after the x, for example x2 or x0\.5$"):
        parse_resize(text)


def test_bgr_swaps_the_channels_and_not_the_mean() -> None:
    image = random_image(1, 5, 6, 3)
    plain = Preprocessing(resize="none", mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    swapped = dataclasses.replace(plain, channel_order="BGR")
    assert torch.equal(preprocess(image, swapped), preprocess(image.flip(3), plain))


def test_a_view_with_gaps_gives_the_same() -> None:
    image = random_image(1, 40, 60, 3)
    gaps = torch.zeros(1, 40, 80, 3, dtype=torch.uint8)
    gaps[:, :, :60] = image
    assert torch.equal(preprocess(gaps[:, :, :60]), preprocess(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 8, 8, 3), r"expected uint8 \(N, H, W, 3\) RGB.*got torch\.float32; convert with"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"got the 3-D shape \[8, 8, 3\]; add the batch dimension"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"got the 2-D shape \[8, 8\]"),
        (torch.zeros(1, 3, 8, 9, dtype=torch.uint8), r"looks like \(N, 3, H, W\); use image\.permute\(0, 2, 3, 1\)"),
        (torch.zeros(1, 8, 8, 1, dtype=torch.uint8), r"with 1 channels; convert the image to RGB"),
        (torch.zeros(1, 8, 8, 4, dtype=torch.uint8), r"with 4 channels"),
        (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), r"got \[0, 8, 8, 3\], which holds no pixels"),
        (torch.zeros(1, 0, 8, 3, dtype=torch.uint8), r"which holds no pixels"),
        (torch.zeros(1, 8, 0, 3, dtype=torch.uint8), r"which holds no pixels"),
        (torch.zeros(1, 1, 300, 3, dtype=torch.uint8), r"1x300 .* would be 520x156000, too large"),
    ],
)
def test_bad_images_are_refused(image: Tensor, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(image)
    message = "got a different dtype" if image.is_floating_point() else message  # TorchScript can't name the dtype
    with pytest.raises(torch.jit.Error, match=message):
        compiled(Preprocessing())(image)


def test_an_array_is_refused() -> None:
    with pytest.raises(ImageError, match=r"got ndarray; convert .* with torch\.from_numpy\(array\)\[None\]"):
        preprocess(torch.zeros(2, 2, 3, dtype=torch.uint8).numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got integers; segment.. takes uint8 images"),
        (torch.zeros(3, 8, 8), "got the 3-D shape"),
        (torch.zeros(1, 8, 8, 3), "with 8 channels"),
        (torch.zeros(0, 3, 8, 8), "holds no pixels"),
        (torch.zeros(1, 3, 0, 8), "holds no pixels"),
    ],
)
def test_bad_inputs_are_refused(image: Tensor, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check_input(image)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": "crop"}, "resize='crop': expected one of 'short_side', 'fixed', 'scale', 'none'"),
        ({"size": 0}, "size=0 with resize='short_side'"),
        ({"size": True}, "size=True"),
        ({"size": (3, 4)}, "expected one whole number"),
        ({"resize": "fixed"}, r"size=None with resize='fixed': expected \(height, width\)"),
        ({"resize": "fixed", "size": 64}, r"expected \(height, width\)"),
        ({"resize": "none", "size": 64}, "expected None"),
        *(
            ({"resize": "scale", "size": size}, r"with resize='scale': expected a factor from 0\.1 to 10")
            for size in (None, 0, -2.0, math.inf, math.nan, 10.1, True, "2", (2, 2), 10**400)
        ),
        ({"interpolation": "lanczos"}, "interpolation='lanczos'"),
        ({"interpolation": "nearest"}, "pass antialias=False"),
        ({"antialias": 1}, "antialias=1"),
        ({"mean": (1, 2)}, "mean and std have 2 and 3 numbers: expected one of each per channel"),
        ({"mean": (1, 2, float("nan"))}, "expected finite numbers"),
        ({"std": (1, 0, 1)}, "expected numbers above 0"),
        ({"channel_order": "rgb"}, "channel_order='rgb'"),
    ],
)
def test_bad_parameters_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing(resize="fixed", size=(3, 4)),
        Preprocessing(resize="scale", size=1.1),
        Preprocessing(resize="none", channel_order="BGR"),
    ],
)
def test_json_round_trip(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


def test_json_is_read_strictly() -> None:
    fields = Preprocessing().to_json()
    with pytest.raises(ValueError, match=r"unknown fields \['crop'\]"):
        Preprocessing.from_json({**fields, "crop": 1})
    del fields["std"]
    with pytest.raises(ValueError, match=r"missing fields \['std'\]"):
        Preprocessing.from_json(fields)
    with pytest.raises(ValueError, match="expected an object"):
        Preprocessing.from_json([1])


@pytest.mark.parametrize("classes", [1, 2, 21, 256, 257])
def test_the_mask_is_the_argmax_for_any_group_size(classes: int) -> None:
    logits = torch.randn(2, classes, 20, 31, generator=torch.Generator().manual_seed(1))
    expected = logits_at(logits, 33, 27).argmax(dim=1)
    for group in (1, 5, 1000):
        mask = logits_to_mask(logits, 33, 27, max_logits=group * 2 * 33 * 27)
        assert mask.dtype == (torch.uint8 if classes <= 256 else torch.int16)
        assert torch.equal(mask.long(), expected)


def test_equal_logits_give_the_lowest_class() -> None:
    for max_logits in (1, 1 << 20):
        assert logits_to_mask(torch.zeros(1, 5, 4, 4), 4, 4, max_logits).sum() == 0


class Threshold(torch.nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": torch.cat([-x[:, :1], x[:, :1]], dim=1)}


def test_segment_gives_a_mask_at_the_size_of_the_image() -> None:
    image = torch.zeros(1, 30, 40, 3, dtype=torch.uint8)
    image[:, :, 20:] = 255
    mask = segment(Threshold().eval(), image, Preprocessing(resize="fixed", size=(60, 80)))
    assert torch.equal(mask, (image[..., 0] > 0).to(torch.uint8))


def test_segment_refuses_a_model_in_training_mode() -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        segment(Threshold(), torch.zeros(1, 3, 3, 3, dtype=torch.uint8))
    assert Segmenter(Threshold(), Preprocessing()).state_dict() == {}


def test_segment_refuses_what_is_no_network() -> None:
    no_network: Any = "weights.safetensors"
    with pytest.raises(TypeError, match=r"expected a network, got str\. segnets\.load\(path\) makes a network"):
        segment(no_network, torch.zeros(1, 3, 3, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("values", "converted"),
    [
        (
            {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
            r"mean=\(0\.485, 0\.456, 0\.406\), std=\(0\.229, 0\.224, 0\.225\)",
        ),
        ({"mean": (104, 117, 123), "std": (1, 1, 1)}, r"mean=\(0\.407843, 0\.458824, 0\.482353\), std=\(0\.00392157,"),
        ({"mean": (124, 116, 104)}, r"mean=\(0\.486275, .*\), std=\(0\.229, 0\.224, 0\.225\)"),
        ({"mean": (0, 0, 0), "std": (255, 255, 255)}, r"mean=\(0, 0, 0\), std=\(1, 1, 1\)"),
    ],
)
def test_numbers_for_pixels_of_0_to_255_are_refused_with_the_right_ones(values: dict[str, Any], converted: str) -> None:
    with pytest.raises(ValueError, match=rf"pixels are scaled to 0\.\.1 first\. Divided by 255: {converted}"):
        Preprocessing(**values)
    written = {**Preprocessing().to_json(), **{name: list(each) for name, each in values.items()}}
    assert Preprocessing.from_json(written).mean == tuple(map(float, values["mean"]))  # a file written before loads


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("none", {"resize": "none", "size": None}),
        ("520", {"resize": "short_side", "size": 520}),
        ("480x640", {"resize": "fixed", "size": (480, 640)}),
        ("x2", {"resize": "scale", "size": 2.0}),
        ("x0.75", {"resize": "scale", "size": 0.75}),
    ],
)
def test_resize_rules_are_parsed(text: str, fields: dict[str, Any]) -> None:
    assert parse_resize(text) == fields


@pytest.mark.parametrize("text", ["9000x", "x", "", "1x2x3", "-5", "5.5", "five", "\N{SUPERSCRIPT TWO}", "1" * 5000])
def test_other_rules_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"^expected 520 \(the short side\), 480x640 \(height x width\), x2 \(twice the image's size\) or none$",
    ):
        parse_resize(text)
    with pytest.raises(ValueError, match=r"^expected sides of 1 to 65536 pixels$"):
        parse_resize("0x5")
