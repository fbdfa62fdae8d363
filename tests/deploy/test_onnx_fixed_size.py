"""ONNX exports of a fixed size: plain operators, agreement, refusals, and joining."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

import segnets
from segnets.cli import main
from segnets.deploy import export, join_onnx, load_exported, read_contract, verify
from segnets.deploy._verify import replay
from segnets.errors import ExportError, ImageError
from segnets.preprocessing import Preprocessing
from segnets.segmenter import segment
from tests.deploy.common import SMALL, calm_model, random_image, tiny

SIZE = (2, 3, 72, 96)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fixed") / "tiny.onnx"
    report = export(tiny(), path, size=SIZE)
    assert "every image is resized to it; without the size, it would be short side resized to 520" in str(report)
    return path


def test_a_fixed_size_replaces_a_factor(tmp_path: Path) -> None:
    model = tiny()
    model.card = segnets.ModelCard(preprocessing=Preprocessing(resize="scale", size=2))
    report = export(model, tmp_path / "m.onnx", size=(1, 3, 64, 96))
    assert report.notes[0] == "size 64x96: every image is resized to it; without the size, it would be scaled by 2"
    assert read_contract(tmp_path / "m.onnx").card.preprocessing == Preprocessing(resize="fixed", size=(64, 96))
    assert load_exported(tmp_path / "m.onnx").segment(random_image(33, 50)).shape == (1, 33, 50)


def test_agrees_at_its_size(fixed: Path) -> None:
    report = verify(fixed, against=tiny())
    assert report.passed
    assert [each.shape for each in report.comparisons] == [(2, 72, 96)]
    other = tiny()
    with torch.no_grad():
        other.backbone.get_parameter("convolution.weight").mul_(1.01)
    assert not verify(fixed, against=other).passed
    session = onnxruntime.InferenceSession(fixed)
    assert session.get_inputs()[0].shape == list(SIZE)
    assert session.get_outputs()[0].shape == [2, 5, 72, 96]


def test_the_contract_states_the_size(fixed: Path) -> None:
    contract = read_contract(fixed)
    assert contract.fixed_shape == (2, 72, 96)
    assert contract.card.preprocessing == Preprocessing(resize="fixed", size=(72, 96))
    assert '"dynamic_axes": {\n  "input": {},' in contract.to_json()
    assert "float32 (2, 3, 72, 96) RGB" in contract.to_json()


def test_the_golden_pair_tests_the_network(fixed: Path) -> None:
    exported = load_exported(fixed)
    assert exported.golden["logits"].shape == (2, 5, 36, 48)  # every second row and column
    exported.golden["logits"][0, 0, 0, 0] += 1
    assert not replay(exported).passed
    exported.golden["input"] += 1
    with pytest.raises(ExportError, match="is not the golden image at this file's size"):
        replay(exported)


def test_images_are_resized_and_other_batches_refused(fixed: Path) -> None:
    exported = load_exported(fixed)
    images = torch.cat([random_image(50, 61), random_image(50, 61, seed=1)])
    expected = segment(tiny(), images, Preprocessing(resize="fixed", size=(72, 96)))
    assert (exported.segment(images) == expected).float().mean() > 0.99
    refused: tuple[tuple[Callable[[], torch.Tensor], str], ...] = (
        (lambda: exported.segment(images[:1]), "image: a batch of 1, but this file was exported for a batch of 2"),
        (lambda: exported.logits(torch.zeros(3, 3, 72, 96)), "input: a batch of 3, but this file"),
        (lambda: exported.logits(torch.zeros(2, 3, 72, 64)), "input: a width of 64, but this file was exported for"),
    )
    for call, message in refused:
        with pytest.raises(ImageError, match=message):
            call()


def test_joined_with_its_preprocessing(fixed: Path, tmp_path: Path) -> None:
    join_onnx(fixed, tmp_path / "joined.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "joined.onnx")
    assert session.get_inputs()[0].shape[0] == session.get_outputs()[0].shape[0] == 2
    images = torch.cat([random_image(50, 61), random_image(50, 61, seed=1)])
    (mask,) = session.run(None, {"image": images.numpy()})
    assert torch.equal(torch.from_numpy(mask), load_exported(fixed).segment(images))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    segnets.save(calm_model("lraspp_resnet18", num_classes=5, head_channels=32), path)
    return path


@pytest.fixture(scope="module")
def by_command(weights: Path) -> Path:
    """Export a network at a fixed size with the command, which keeps the file only if it agrees."""
    target = weights.with_name("m.onnx")
    assert main(["export", str(weights), str(target), "--size", "1x3x64x96"]) == 0
    return target


def test_only_plain_operators(by_command: Path) -> None:
    """Without gates that compute shapes, sizes of Resize that are computed, or operators of one runtime."""
    graph = onnx.load(by_command)
    assert [each.domain for each in graph.opset_import] == [""]
    kinds = {node.op_type for node in graph.graph.node}
    assert kinds <= {"Conv", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Sigmoid", "Mul", "Resize"}
    constants = {each.name for each in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Resize":
            assert all(name in constants for name in node.input[1:] if name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (1, 3, 480)}, r"size=\(1, 3, 480\): expected \(batch, channels, height, width\)"),
        ({"size": (1, 3, 0, 64)}, "1 to 65536 each"),
        ({"size": (1, 4, 64, 64)}, "has 4 channels, but images of this network have 3"),
        (
            {"size": SIZE, "preprocessing": SMALL},
            "preprocessing: images are resized to 64x80, but size=.* requires 72x96",
        ),
        (
            {"size": SIZE, "preprocessing": Preprocessing(resize="scale", size=2)},
            "preprocessing: images are scaled by 2, but size=.* requires 72x96",
        ),
        ({"size": SIZE, "format": "torchscript"}, "size=.* needs format='onnx': a file of format='torchscript' takes"),
        ({"size": SIZE, "dtype": "int8", "calibration": "."}, "calibration takes one image at a time"),
    ],
)
def test_refused_sizes(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export(tiny(), tmp_path / "m", **{"format": "onnx", **options})  # type: ignore[arg-type]


def test_the_command(by_command: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--size", "480x640"], "--size 480x640: expected batch x channels x height x width, for example 1x3x480x640"),
        (["--size", "1x3x64x96", "--resize", "64"], "--resize 64 contradicts --size 1x3x64x96: omit --resize"),
        (["--size", "1x3x64x96", "--resize", "x2"], "--resize x2 contradicts --size 1x3x64x96: omit --resize"),
    ):
        assert main(["export", str(weights), str(tmp_path / "m.onnx"), *options]) == 1
        assert message in capsys.readouterr().err
    assert main(["info", str(by_command)]) == 0
    assert "height" in capsys.readouterr().out
