"""ONNX graphs for images, compared bit for bit with `segnets.preprocess` and `segnets.segmenter`."""

from __future__ import annotations

import onnx
import onnx.parser
import onnxruntime
import pytest
import torch

from segnets.card import Decoding
from segnets.deploy.formats.onnx import network as exporter
from segnets.deploy.formats.onnx.image_graphs import mask_text, preprocess_text
from segnets.preprocessing import Preprocessing, preprocess
from segnets.segmenter import logits_to_mask
from tests.deploy.common import random_image

# The resize equals LibTorch's kernels that multiply and add with one rounding, in every bit.
HAS_FMA = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def run(text: str, **inputs: torch.Tensor) -> torch.Tensor:
    """Run a graph in ONNX's text syntax once, with ONNX Runtime."""
    session = onnxruntime.InferenceSession(onnx.parser.parse_model(text).SerializeToString())
    return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])


# Plain bilinear is left out: LibTorch's own last bits depend on the number of threads.
@pytest.mark.parametrize(
    "preprocessing",
    [
        pytest.param(Preprocessing(), marks=pytest.mark.full),  # large images
        Preprocessing(size=65, channel_order="BGR", mean=(0.1, 0.2, 0.3)),
        Preprocessing(size=90, interpolation="bicubic"),
        Preprocessing(size=150, interpolation="bicubic", antialias=False),
        Preprocessing(size=77, interpolation="nearest", antialias=False),
        Preprocessing(resize="fixed", size=(48, 333)),
        Preprocessing(resize="scale", size=1.5),
        Preprocessing(resize="scale", size=0.5, interpolation="bicubic"),
        Preprocessing(resize="none", channel_order="BGR"),
    ],
    ids=lambda p: f"{p.resize}-{p.interpolation}-{p.antialias}-{p.channel_order}",
)
def test_images_are_prepared_bit_for_bit(preprocessing: Preprocessing) -> None:
    text = preprocess_text(preprocessing, exporter.DEFAULT_OPSET)
    for seed, (height, width) in enumerate([(1, 1), (5, 3), (48, 333), (120, 64), (97, 521), (300, 100)]):
        image = torch.cat([random_image(height, width, seed), random_image(height, width, seed + 100)])
        ours, theirs = run(text, image=image), preprocess(image, preprocessing)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        if HAS_FMA:
            assert torch.equal(ours, theirs), (height, width)
        else:
            assert _grey_levels(ours, theirs, preprocessing) <= 1.01


def test_plain_bilinear_is_within_one_grey_level() -> None:
    preprocessing = Preprocessing(size=75, antialias=False)
    image = random_image(300, 411)
    ours = run(preprocess_text(preprocessing, exporter.DEFAULT_OPSET), image=image)
    theirs = preprocess(image, preprocessing)
    assert _grey_levels(ours, theirs, preprocessing) <= 1.01
    assert (ours != theirs).float().mean() < 1e-3


def _grey_levels(ours: torch.Tensor, theirs: torch.Tensor, preprocessing: Preprocessing) -> float:
    std = torch.tensor(preprocessing.std).view(-1, 1, 1)
    return float(((ours - theirs) * std).abs().max()) * 255


@pytest.mark.parametrize(("classes", "size"), [(1, (30, 20)), (5, (1, 1)), (21, (61, 99)), (300, (24, 32))])
def test_masks_equal_logits_to_mask(classes: int, size: tuple[int, int]) -> None:
    logits = torch.randn(2, classes, 24, 32, generator=torch.Generator().manual_seed(classes))
    logits[:, :, :3] = 0.5  # the lowest class wins a tie
    mask = run(mask_text(classes, Decoding(), exporter.DEFAULT_OPSET), logits=logits, size=torch.tensor(size))
    expected = logits_to_mask(logits, *size)
    assert (mask.shape, mask.dtype) == (expected.shape, expected.dtype)
    assert (mask == expected).float().mean() > 0.9995
