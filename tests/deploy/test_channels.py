"""Networks that read gray images, or images of several bands, in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from segnets.card import Decoding
from segnets.deploy import export, join_onnx, load_exported, verify
from segnets.deploy.check.golden import golden_image, golden_size
from segnets.deploy.formats import _script
from segnets.deploy.formats.aoti import ImageProgram
from segnets.deploy.formats.onnx.image_graphs import preprocess_text
from segnets.errors import ExportError, ImageError
from segnets.model import SegmentationModel
from segnets.preprocessing import Preprocess, Preprocessing, preprocess
from segnets.segmenter import segment
from tests.deploy.common import calm_model, needs_compiler, random_model
from tests.deploy.test_onnx_image import run


def prepared_for(channels: int, **fields: Any) -> Preprocessing:
    """A preprocessing whose means and deviations all differ."""
    mean = tuple(0.2 + 0.1 * channel for channel in range(channels))
    std = tuple(0.3 - 0.02 * channel for channel in range(channels))
    return Preprocessing(**{"resize": "fixed", "size": (48, 64), "mean": mean, "std": std, **fields})


class _Backbone(torch.nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(channels, 8, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": torch.relu(self.convolution(x))}


def tiny(channels: int) -> SegmentationModel:
    return SegmentationModel(_Backbone(channels), torch.nn.Conv2d(8, 3, 1)).eval()


def image_of(channels: int, height: int = 37, width: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    return torch.randint(0, 256, (2, height, width, channels), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize(
    "resize", [{}, {"resize": "none", "size": None}, {"resize": "short_side", "size": 40}], ids=str
)
def test_every_channel_has_its_mean(channels: int, resize: dict[str, Any]) -> None:
    preprocessing, image = prepared_for(channels, **resize), image_of(channels)
    size = Preprocess(preprocessing).output_size(*image.shape[1:3])
    planes = image.permute(0, 3, 1, 2).float()
    if size != image.shape[1:3]:
        planes = F.interpolate(planes, size=list(size), mode="bilinear", antialias=True).round()
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (preprocessing.mean, preprocessing.std))
    expected = (planes / 255 - mean) / std
    torch.testing.assert_close(preprocess(image, preprocessing), expected)
    program: Any = _script.script(ImageProgram(preprocessing, Decoding()))
    assert torch.equal(program.preprocess(image), preprocess(image, preprocessing))
    assert torch.equal(run(preprocess_text(preprocessing, 20), image=image), preprocess(image, preprocessing))


@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {"target": "portable"}),
        pytest.param(1, {"target": "cpu"}, marks=pytest.mark.full),
        (4, {"target": "cpu"}),
        (4, {"target": "portable", "output": "dict"}),
        (4, {"format": "onnx"}),
    ],
    ids=str,
)
def test_exports_compute_the_same_mask(channels: int, options: dict[str, Any], tmp_path: Path) -> None:
    # The passes of target "cpu" run the network; the others need no real one.
    name = "lraspp_mobilenet_v3_small" if options.get("target") == "cpu" else None
    model = tiny(channels) if name is None else random_model(name, num_classes=3, in_channels=channels)
    preprocessing, image, path = (
        prepared_for(channels),
        image_of(channels),
        tmp_path / ("m.onnx" if "format" in options else "m.ts"),
    )
    assert export(model, path, preprocessing=preprocessing, **options).verification.passed
    exported = load_exported(path)
    assert (exported.contract.in_channels, exported.contract.card.preprocessing) == (channels, preprocessing)
    torch.testing.assert_close(exported.preprocess(image), preprocess(image, preprocessing))
    assert (exported.segment(image) != segment(model, image, preprocessing)).float().mean() < 1e-3
    assert verify(path, against=model).passed
    # Every channel counts.
    changed = image.clone()
    changed[..., -1] = 255 - changed[..., -1]
    assert not torch.equal(exported.segment(changed), exported.segment(image))
    if options.get("format") == "onnx":
        join_onnx(path, tmp_path / "joined.onnx")
    with pytest.raises(ImageError, match=rf"expected uint8 \(N, H, W, {channels}\).* with 3 channels; convert"):
        exported.segment(image_of(3))
    with pytest.raises(ImageError, match="with 3 channels"):
        exported.logits(torch.zeros(1, 3, 40, 40))


@pytest.mark.full
@needs_compiler
def test_a_compiled_model_of_four_channels(tmp_path: Path) -> None:
    model, preprocessing, image = calm_model("fcn_resnet18", num_classes=3, in_channels=4), prepared_for(4), image_of(4)
    assert export(model, tmp_path / "m.pt2", format="aoti", preprocessing=preprocessing).verification.passed
    mask = load_exported(tmp_path / "m.pt2").segment(image)
    assert (mask != segment(model, image, preprocessing)).float().mean() < 1e-3


@pytest.mark.usefixtures("tiny_translated_once")
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_int8_is_calibrated_on_images_of_as_many_channels(channels: int, mode: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(image_of(channels)[number].squeeze(-1).numpy(), mode).save(folder / f"{number}.png")
    model = tiny(channels)
    arguments: dict[str, Any] = {"format": "onnx", "dtype": "int8", "calibration": folder, "minimum_agreement": 0.5}
    report = export(model, tmp_path / "m.onnx", preprocessing=prepared_for(channels), **arguments)
    assert report.verification.passed
    if channels == 4:
        image = Image.new("RGB", (20, 20))
        image.save(folder / "x.png")
        with pytest.raises(ExportError, match=r"x\.png: has 3 channels, but the network takes 4"):
            export(model, tmp_path / "n.onnx", preprocessing=prepared_for(channels), **arguments)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_preprocessing_of_other_channels_is_refused(channels: int, tmp_path: Path) -> None:
    model = random_model("lraspp_mobilenet_v3_small", num_classes=3, in_channels=channels)
    message = f"its mean has 3 numbers, but the model takes images with {channels} channel.*Pass preprocessing="
    with pytest.raises(ExportError, match=message):
        export(model, tmp_path / "m.ts")
    with pytest.raises(ImageError, match=message):
        segment(model, image_of(3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.1, 0.2)}, "mean and std have 2 and 3 numbers"),
        ({"mean": (), "std": ()}, "expected numbers, one per channel"),
        (
            {"mean": (0.5,), "std": (0.5,), "channel_order": "BGR"},
            "channel_order='BGR' is for 3 channels, but mean has 1",
        ),
    ],
)
def test_contradictory_channels_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**fields)


def test_gray_images_without_a_channel_axis_are_explained() -> None:
    with pytest.raises(
        ImageError, match=r"\(N, H, W, 1\) gray .*got the 2-D shape \[8, 9\]; image\.view\(-1, H, W, 1\)"
    ):
        preprocess(torch.zeros(8, 9, dtype=torch.uint8), prepared_for(1))
    with pytest.raises(ImageError, match=r"got the 3-D shape \[8, 9, 1\]; add the batch dimension"):
        preprocess(torch.zeros(8, 9, 1, dtype=torch.uint8), prepared_for(1))


def test_the_golden_image_has_as_many_different_channels() -> None:
    """Of three channels, it is the image that files from before have."""
    image = golden_image(9)
    assert torch.equal(image[..., :3], golden_image())
    assert torch.equal(image[..., :1], golden_image(1))
    assert len({bytes(image[..., channel].numpy().tobytes()) for channel in range(9)}) == 9


def test_the_golden_image_is_not_reduced_below_its_usual_size() -> None:
    """A compiled network takes inputs from 33 pixels on, and a smaller one would show no pattern."""
    for factor in (0.1, 0.3, 0.5, 0.9, 1.0, 3.0):
        preprocessing = Preprocessing(resize="scale", size=factor)
        height, width = Preprocess(preprocessing).output_size(*golden_size(preprocessing))
        assert height >= 48
        assert width >= 64
    assert golden_size(Preprocessing()) == golden_size(Preprocessing(resize="scale", size=3)) == (48, 64)
