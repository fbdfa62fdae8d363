"""int8 ONNX exports: calibration, measured cost, refusal of a large loss, and verification."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnxruntime import InferenceSession
from PIL import Image

from segnets.card import Decoding
from segnets.deploy import export, join_onnx, load_exported, read_contract, verify
from segnets.deploy.formats.onnx import quantize as quantizer
from segnets.deploy.formats.onnx._calibration import prepared_image
from segnets.deploy.formats.onnx.network import network_of
from segnets.deploy.formats.onnx.quantize import quantize
from segnets.deploy.passes.context import Context
from segnets.deploy.passes.pipeline import rewrite
from segnets.errors import ExportError
from segnets.files import is_export
from segnets.model import SegmentationModel
from segnets.preprocessing import Preprocess, Preprocessing, preprocess
from segnets.segmenter import segment
from tests.deploy.common import SMALL, calm_model, random_image, tiny
from tests.typed import part

pytestmark = pytest.mark.usefixtures("tiny_translated_once")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write nine noisy gradients, in several sizes and file types."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(9):
        noise = random_image(40 + number, 60, seed=number)[0].numpy() // 2
        slope = np.linspace(0, 127, 60, dtype=np.uint8)[None, :, None]
        Image.fromarray(noise + slope).save(folder / f"{number}.{'png' if number % 2 else 'jpg'}")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def in_8_bits(tiny_translated_once: None, tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "int8.onnx"
    report = export(tiny(), path, format="onnx", dtype="int8", calibration=photographs, preprocessing=SMALL)
    assert report.verification.passed
    assert report.quantization is not None
    assert (report.quantization.calibrated, report.quantization.measured, report.quantization.held_out) == (7, 2, True)
    assert 0.9 < report.quantization.agreement <= 1
    assert 0 < report.quantization.logits_difference < 0.1
    assert "masks agree with float32 on " in str(report)
    return path


@pytest.mark.full
def test_a_real_network(tmp_path: Path, photographs: Path) -> None:
    model = calm_model("lraspp_mobilenet_v3_large", num_classes=5)
    report = export(model, tmp_path / "m.onnx", format="onnx", preprocessing=SMALL)
    assert report.verification.passed
    assert report.folded_batch_norms == 47
    image = random_image(50, 70)
    same = load_exported(tmp_path / "m.onnx").segment(image) == segment(model, image, SMALL)
    assert same.float().mean() > 0.999
    network = onnx.load(tmp_path / "m.onnx")
    network.ClearField("metadata_props")
    _, measured = quantize(network.SerializeToString(), SMALL, Decoding(), photographs, 0.0)
    assert measured.size_ratio < 0.35
    assert 0.5 < measured.worst_agreement <= measured.agreement <= 1
    assert 0 < measured.logits_difference < 0.2


def test_int8_is_verified_later(in_8_bits: Path) -> None:
    contract = read_contract(in_8_bits)
    assert contract.dtype == "int8"
    assert is_export(in_8_bits)  # so that `segnets info` describes it
    assert contract.quantization["images_measured"] == 2
    assert str(contract.quantization["method"]).startswith("onnxruntime ")
    model = tiny()
    assert verify(in_8_bits, against=model).passed
    image = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = (load_exported(in_8_bits).logits(image) - model(image)["out"]).abs().max()
    assert difference > 1e-3
    kinds = {node.op_type for node in onnx.load(in_8_bits).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    with torch.no_grad():
        model.backbone.get_parameter("convolution.weight").mul_(1.2)
    assert not verify(in_8_bits, against=model).passed


def nearly_equal_classes(difference: float) -> SegmentationModel:
    """Return a network whose classes differ by less than the rounding of int8 weights."""
    model = tiny()
    with torch.no_grad():
        weight = part(model, "classifier.weight")
        weight[1:] = weight[:1] * (1 + difference * torch.arange(1, 5).view(-1, 1, 1, 1))
        part(model, "classifier.bias").zero_()
    return model


def test_int8_that_loses_too_much_is_tried_with_16_bit_activations(photographs: Path, tmp_path: Path) -> None:
    model = nearly_equal_classes(1e-3)
    options: dict[str, Any] = {"format": "onnx", "dtype": "int8", "calibration": photographs, "preprocessing": SMALL}
    low = export(model, tmp_path / "low.onnx", minimum_agreement=0.0, **options).quantization
    assert low is not None
    assert low.agreement < 0.9
    assert "activations uint8" in low.method
    report = export(model, tmp_path / "m.onnx", **options)
    assert report.quantization is not None
    assert report.quantization.agreement >= 0.9
    assert "activations uint16, moving average of ranges)" in str(report)
    contract = read_contract(tmp_path / "m.onnx")
    assert contract.quantization["minimum_agreement"] == 0.9
    # ONNX Runtime raises the opset for 16-bit activations. The small graphs follow, else they could not be joined.
    assert contract.opset == onnx.load(tmp_path / "m.onnx").opset_import[0].version
    join_onnx(tmp_path / "m.onnx", tmp_path / "joined.onnx")


def test_int8_that_still_loses_too_much_is_refused(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizer._Quantizer, "ladder", lambda _: iter([quantizer._Settings()]))
    options: dict[str, Any] = {"format": "onnx", "dtype": "int8", "calibration": photographs, "preprocessing": SMALL}
    with pytest.raises(ExportError, match=r"int8 loses too much, even with .* at least 90% is required; .*Export in"):
        export(nearly_equal_classes(1e-3), tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("channels", "decoding"), [(1, Decoding("threshold", 0.4)), (3, Decoding("multilabel", 0.6)), (3, Decoding())]
)
def test_the_agreement_is_that_of_the_decoded_masks(channels: int, decoding: Decoding, photographs: Path) -> None:
    """A threshold counts pixels whose side changes, planes count pixels of which any plane changes."""
    weights = ", ".join(["0.3, -0.5, 0.7", "0.5, 0.1, -0.6", "-0.4, 0.8, 0.2"][:channels])
    plain = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 20]>
        network (float[n, 3, h, w] input) => (float[n, {channels}, h, w] logits)
        <float[{channels}, 3, 1, 1] weight = {{{weights}}}> {{ logits = Conv(input, weight) }}""").SerializeToString()
    changed, report = quantize(plain, SMALL, decoding, photographs, 0.0)
    same, pixels = 0, 0
    for number in (3, 7):  # held out
        image = prepared_image(Preprocess(SMALL), sorted(photographs.glob("?.*"))[number]).numpy()
        a, b = (InferenceSession(each).run(["logits"], {"input": image})[0] for each in (plain, changed))
        if decoding.rule == "argmax":
            equal = a.argmax(axis=1) == b.argmax(axis=1)
        else:
            equal = np.all(
                (1 / (1 + np.exp(-a)) > decoding.threshold) == (1 / (1 + np.exp(-b)) > decoding.threshold), 1
            )
        same, pixels = same + int(equal.sum()), pixels + equal.size
    assert report.agreement == pytest.approx(same / pixels, abs=1e-12)
    assert 0.9 < report.agreement < 1


def test_the_layers_that_lose_most_are_left_out_first(photographs: Path, tmp_path: Path) -> None:
    """The classifier, the last convolution, loses most here, and int8 keeps the other one."""
    model = nearly_equal_classes(1e-3)
    plain = network_of(rewrite(model, Context("onnx", "portable")).network, 20)
    images = [preprocess(random_image(40, 60, seed=seed), SMALL) for seed in range(2)]
    attempts = list(quantizer._Quantizer(plain, Decoding(), tmp_path, lambda: iter(images)).ladder())
    assert [(each.activations, bool(each.left_out)) for each in attempts[:3]] == [
        ("uint8", False),
        ("uint16", False),
        ("uint8", True),
    ]
    convolutions = [node.name for node in onnx.load(tmp_path / "prepared.onnx").graph.node if node.op_type == "Conv"]
    assert convolutions[-1] in attempts[-1].left_out
    assert convolutions[0] not in attempts[2].left_out


def test_verify_says_what_decided(in_8_bits: Path) -> None:
    text = str(verify(in_8_bits, against=tiny()))
    assert re.search(
        r"its masks agreed with float32 on (?:9\d|100)\.\d\d% of the pixels of 2 images held out, at least 90.00%", text
    )
    assert text.count("pixels differ") == 1  # of the golden pair; those of synthetic images decide nothing


def test_each_domain_is_listed_once(in_8_bits: Path) -> None:
    domains = [each.domain for each in onnx.load(in_8_bits).opset_import]
    assert len(domains) == len(set(domains))


def test_too_few_images_to_hold_any_out(photographs: Path, tmp_path: Path) -> None:
    shutil.copy(photographs / "0.jpg", tmp_path)
    shutil.copy(photographs / "1.png", tmp_path)
    options: dict[str, Any] = {"dtype": "int8", "calibration": tmp_path, "minimum_agreement": 0.0}
    report = export(tiny(), tmp_path / "m.onnx", format="onnx", preprocessing=SMALL, **options)
    assert report.quantization is not None
    assert (report.quantization.calibrated, report.quantization.measured, report.quantization.held_out) == (2, 2, False)
    assert "too few to hold any out" in str(report)


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [("notes.txt", b"", "has no images"), ("broken.png", b"PNG", r"broken\.png: not an image that Pillow")],
)
def test_folders_without_images(name: str, contents: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ExportError, match=message):
        export(tiny(), tmp_path / "m.onnx", format="onnx", dtype="int8", calibration=tmp_path, preprocessing=SMALL)
    with pytest.raises(ExportError, match="can't be read: No such file"):
        export(tiny(), tmp_path / "m.onnx", format="onnx", dtype="int8", calibration=tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_photographs_are_calibrated_as_displayed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    prepare = Preprocess(Preprocessing(resize="none"))
    expected = prepare(torch.from_numpy(np.rot90(pixels, -1).copy())[None])
    assert torch.equal(prepared_image(prepare, tmp_path / "photo.png"), expected)
    scaled = prepared_image(Preprocess(Preprocessing(resize="scale", size=1.5)), tmp_path / "photo.png")
    assert scaled.shape == (1, 3, 45, 30)


def test_images_of_more_than_8_bits(tmp_path: Path) -> None:
    """Pillow would clip all of their greys to white."""
    Image.fromarray(np.full((64, 64), 20000, np.uint16)).save(tmp_path / "deep.png")
    prepare = Preprocess(Preprocessing(resize="none"))
    expected = prepare(torch.full((1, 64, 64, 3), 20000 >> 8, dtype=torch.uint8))
    assert torch.equal(prepared_image(prepare, tmp_path / "deep.png"), expected)
    Image.fromarray(np.full((64, 64), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ExportError, match=r"float\.tif: has pixel values of unknown range \(floating point\)"):
        export(tiny(), tmp_path / "m.onnx", format="onnx", dtype="int8", calibration=tmp_path, preprocessing=SMALL)
    with pytest.raises(ExportError, match="calibration='': expected a folder"):
        export(tiny(), tmp_path / "m.onnx", format="onnx", dtype="int8", calibration="", preprocessing=SMALL)
