"""`save`, `load` and `load_weights` with files on disk."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import segnets
from segnets import backbones
from tests.models.pairs import images
from tests.oracle import randomised
from tests.tiers import full_but
from tests.typed import card_of, in_memory_format, part

CARD: dict[str, Any] = {
    "classes": ["road", "car", "sky"],
    "palette": [(128, 64, 128), (0, 0, 142), (70, 130, 180)],
    "preprocessing": segnets.Preprocessing(resize="none", size=None),
    "provenance": {"source": "a test", "licence": "none"},
}


@pytest.fixture(scope="module")
def model() -> segnets.SegmentationModel:
    network = randomised(segnets.lraspp_mobilenet_v3_large, num_classes=3)
    return network.eval()


@pytest.mark.parametrize(
    "name",
    full_but(
        ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"],
        ["deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large"],
    ),
)
def test_a_loaded_model_has_the_same_bits(name: str, tmp_path: Path) -> None:
    network = randomised(segnets.create_model, name, num_classes=3, aux_loss=not name.startswith("lraspp"))
    segnets.save(network, tmp_path / "w.safetensors", **CARD)
    loaded = segnets.load(tmp_path / "w.safetensors")
    assert not loaded.training
    assert loaded.config == network.config
    assert loaded.card == segnets.ModelCard(
        tuple(CARD["classes"]), tuple(CARD["palette"]), CARD["preprocessing"], CARD["provenance"]
    )
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
        assert loaded.state_dict()[key].dtype == tensor.dtype
    x = images(1, 65, 97)
    with torch.inference_mode():
        expected, got = network.eval()(x), loaded(x)
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_training_a_loaded_model_does_not_change_its_file(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    segnets.save(model, path)
    before = path.read_bytes()
    loaded = segnets.load(path).train()
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1)
    loaded(images(2, 32, 32))["out"].square().mean().backward()
    optimizer.step()
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert not torch.equal(part(loaded, "backbone.0.0.weight"), part(model, "backbone.0.0.weight"))
    assert path.read_bytes() == before


def test_the_same_model_gives_the_same_bytes_and_other_libraries_read_them(model: nn.Module, tmp_path: Path) -> None:
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    segnets.save(model, first, **CARD)
    segnets.save(segnets.load(first), second)
    assert first.read_bytes() == second.read_bytes()
    with safe_open(first, framework="pt") as file:
        assert list(file.metadata()) == ["segnets"], "one key: several would come in random order"
        description = json.loads(file.metadata()["segnets"])
        for key, tensor in model.state_dict().items():
            assert torch.equal(file.get_tensor(key), tensor)
    assert list(description) == sorted(description)
    assert description["model"] == {
        "name": "lraspp_mobilenet_v3_large",
        "options": {
            "num_classes": 3,
            "aux_loss": False,
            "in_channels": 3,
            "output_stride": 16,
            "first_block_dilation": "same",
            "norm_layer": "batch",
            "norm_eps": 1e-3,
            "head_variant": "torchvision",
            "head_channels": 128,
            "head_norm_layer": "batch",
            "head_norm_eps": 1e-5,
            "align_corners": False,
        },
    }


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_a_loaded_model_runs_on_float32_images(tmp_path: Path, stored: torch.dtype) -> None:
    network = segnets.lraspp_mobilenet_v3_large(num_classes=3).to(stored).eval()
    segnets.save(network, tmp_path / "w.safetensors")
    x = images(1, 32, 32)
    with torch.inference_mode():
        expected = network.float()(x)["out"]
        assert torch.equal(segnets.load(tmp_path / "w.safetensors")(x)["out"], expected)
        double = segnets.load(tmp_path / "w.safetensors", dtype="float64")(x.double())["out"]
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), expected, atol=1e-4)
    for wrong in ("float31", torch.int8, 32):
        with pytest.raises(segnets.WeightsError, match=r"dtype=.*: expected a floating-point dtype such as"):
            segnets.load(tmp_path / "w.safetensors", dtype=wrong)  # type: ignore[arg-type]


def test_half_precision_is_kept(model: nn.Module, tmp_path: Path) -> None:
    half = segnets.lraspp_mobilenet_v3_large(num_classes=3).to(torch.bfloat16)
    segnets.save(half, tmp_path / "w.safetensors")
    loaded = segnets.load(tmp_path / "w.safetensors", dtype=None)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"^the model is in torch\.bfloat16, .* call model\.float\(\) first"):
        segnets.segment(loaded, torch.zeros((1, 8, 9, 3), dtype=torch.uint8))
    report = segnets.load_weights(model.__class__(*_parts(3)), tmp_path / "w.safetensors")
    assert report.cast == {"torch.bfloat16": "torch.float32"}
    assert "converted from torch.bfloat16 to torch.float32" in str(report)


def _parts(num_classes: int) -> tuple[nn.Module, nn.Module]:
    network = segnets.lraspp_mobilenet_v3_large(num_classes=num_classes)
    return network.backbone, network.classifier


def test_strided_channels_last_and_shared_tensors(tmp_path: Path) -> None:
    network = randomised(segnets.fcn_resnet50, num_classes=3, backbone_stages=2)
    expected = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    network = in_memory_format(network, torch.channels_last)
    first = part(network.backbone, "layer1.0")
    weight = first.conv1.weight
    weight.data = weight.data.transpose(0, 1).contiguous().transpose(0, 1)  # not contiguous in any layout
    first.bn2.weight = first.bn1.weight  # tied
    segnets.save(network, tmp_path / "w.safetensors")
    loaded = segnets.load(tmp_path / "w.safetensors").state_dict()
    expected["backbone.layer1.0.bn2.weight"] = expected["backbone.layer1.0.bn1.weight"]
    for key, tensor in expected.items():
        assert torch.equal(loaded[key], tensor), key
        assert loaded[key].is_contiguous()


def test_a_separate_classifier(tmp_path: Path) -> None:
    network = randomised(backbones.resnet18, num_classes=5)
    segnets.save(network, tmp_path / "w.safetensors")
    loaded = segnets.load(tmp_path / "w.safetensors")
    assert torch.equal(loaded(images(1, 64, 64)), network.eval()(images(1, 64, 64)))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_mode_follows_the_umask(model: nn.Module, tmp_path: Path, umask: int, mode: int) -> None:
    previous = os.umask(umask)
    try:
        segnets.save(model, tmp_path / "w.safetensors")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == mode


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"classes": ["a", "b"]}, "classes: 2 names for a model with 3 classes"),
        ({"classes": "abc"}, "classes='abc': expected a list"),
        ({"classes": [1, 2, 3]}, r"classes\[0\]=1: expected a printable string"),
        ({"classes": ["a", "b", "\ud800"]}, r"classes\[2\]='\\ud800': expected a printable string"),
        ({"palette": [(0, 0, 0)]}, "palette: 1 colours for a model with 3 classes"),
        ({"palette": [(999, 0, 0)] * 3}, r"palette\[0\]=\(999, 0, 0\): expected three integers 0\.\.255"),
        ({"palette": [(1, 2)] * 3}, r"palette\[0\]=\(1, 2\): expected three"),
        ({"palette": ["red"] * 3}, "palette colour='red': expected a list"),
        ({"preprocessing": "x"}, "preprocessing='x': expected a segnets.Preprocessing"),
        ({"provenance": {"when": object()}}, "can't be encoded as JSON"),
    ],
)
def test_an_invalid_card_is_not_saved(tmp_path: Path, model: nn.Module, card: dict[str, Any], message: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(segnets.WeightsError, match=message):
        segnets.save(model, path, **card)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_without_a_description_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(segnets.WeightsError, match=r"this Linear has no config.*create_model"):
        segnets.save(nn.Linear(2, 2), path)
    with torch.device("meta"):
        empty = segnets.lraspp_mobilenet_v3_large(num_classes=3)
    with pytest.raises(segnets.WeightsError, match=r"319 of 319 tensors can't be saved: .*no values \(meta device\)"):
        segnets.save(empty, path)
    assert list(tmp_path.iterdir()) == []


def test_proofs_of_other_tensors_are_dropped(tmp_path: Path, model: nn.Module) -> None:
    source = {"source_sha256": "12ab", "licence": "MIT", "proof": "every tensor byte-equal to the source's"}
    segnets.save(model, tmp_path / "a.safetensors", provenance=source, preprocessing=segnets.Preprocessing())
    segnets.save(segnets.load(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    second = segnets.load(tmp_path / "b.safetensors")
    assert card_of(second).provenance == {"derived_from": {"source_sha256": "12ab", "licence": "MIT"}}
    segnets.save(second, tmp_path / "c.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_fine_tuning_keeps_the_preprocessing(tmp_path: Path) -> None:
    name = "deeplabv3_mobilenet_v3_large"
    preprocessing = segnets.Preprocessing(channel_order="BGR", mean=(0.1, 0.2, 0.3))
    source = segnets.create_model(name, num_classes=2)
    segnets.save(source, tmp_path / "w.safetensors", classes=["a", "b"], preprocessing=preprocessing)
    with_aux = segnets.create_model(name, weights=tmp_path / "w.safetensors", aux_loss=True)
    assert with_aux.card == segnets.ModelCard(("a", "b"), (), preprocessing)
    with pytest.warns(UserWarning, match="newly initialised"):
        other = segnets.create_model(name, weights=tmp_path / "w.safetensors", num_classes=5)
    assert other.card == segnets.ModelCard((), (), preprocessing)
    segnets.load_weights(with_aux, source.state_dict())
    assert with_aux.card is None, "nothing is known of a bare state dict"


def test_files_that_are_not_weights_files(tmp_path: Path, model: nn.Module) -> None:
    def refused(name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(segnets.WeightsError, match=message):
            segnets.load(tmp_path / name)

    refused("empty", b"", "is empty")
    refused("page", b"<!DOCTYPE html><html>", "is not a safetensors file")
    refused("short", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "is not a valid safetensors file")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        segnets.WeightsError, match="is a PyTorch file, not safetensors; convert it with: weights-tools"
    ):
        segnets.load(tmp_path / "w.pth")
    with pytest.raises(segnets.WeightsError, match="no such file"):
        segnets.load(tmp_path / "nothing")
    with pytest.raises(segnets.WeightsError, match="not a regular file"):
        segnets.load(tmp_path)
    save_file(model.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(segnets.WeightsError, match=r"does not describe its network\. Convert it with: weights-tools"):
        segnets.load(tmp_path / "plain.safetensors")


def test_only_files_with_the_new_rule_have_the_new_format(model: nn.Module, tmp_path: Path) -> None:
    """A version without the rule refuses format 2 and asks for an update."""
    rules = (segnets.Preprocessing(), segnets.Preprocessing(resize="scale", size=2))
    for preprocessing, expected in zip(rules, (1, 2), strict=True):
        path = tmp_path / "w.safetensors"
        segnets.save(model, path, preprocessing=preprocessing)
        with safe_open(path, framework="pt") as file:
            description = json.loads(file.metadata()["segnets"])
        assert description["format"] == expected
        assert [*description["preprocessing"]] == sorted(segnets.Preprocessing().to_json())
        loaded: Any = segnets.load(path)
        assert loaded.card.preprocessing == preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "was written in format 99 by a newer segnets"),
        (lambda d: d.pop("model"), "its description is damaged"),
        (
            lambda d: d["model"].update(name="nosuchhead_resnet50"),
            "network 'nosuchhead_resnet50' is not registered. Import",
        ),
        (lambda d: d["model"]["options"].update(magic=1), "can't be built"),
        (lambda d: d["model"]["options"].update(num_classes=-1), "can't be built: num_classes=-1"),
        (lambda d: d["model"]["options"].update(num_classes=2**70), "can't be built"),
        (lambda d: d["model"].update(name="resnet18", options={"num_classes": 2**62}), "can't be built"),
        (lambda d: d["model"].update(name="mobilenet_v3_small", options={"width_mult": 1e308}), "can't be built"),
        (lambda d: d["model"]["options"].update(num_classes=4), "does not fit .* 4 of a different shape"),
        (lambda d: d.update(palette=[[1, 2]]), "its description is damaged"),
        (lambda d: d["preprocessing"].update(resize="sideways"), "its description is damaged"),
        (lambda d: d["preprocessing"].update(resize="scale", size=0), "size=0 with resize='scale': expected a factor"),
    ],
)
def test_a_wrong_description(
    model: nn.Module, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    segnets.save(model, tmp_path / "good.safetensors")
    with safe_open(tmp_path / "good.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()["segnets"])
    change(description)
    bad = tmp_path / "bad.safetensors"
    save_file(model.state_dict(), bad, metadata={"segnets": json.dumps(description)})
    with pytest.raises(segnets.WeightsError, match=message):
        segnets.load(bad)


def test_save_refuses_suffixes_of_other_formats_only(tmp_path: Path) -> None:
    model = segnets.create_model("lraspp_mobilenet_v3_small", num_classes=2)
    for name in ("x.pt", "x.PTH", "x.ckpt", "x.bin", "x.onnx", "epoch.1.ts", "x.pt2"):
        with pytest.raises(
            segnets.OutputError, match=r"the suffix '\.\w+' is for .*, but save writes safetensors\. Name the file"
        ):
            segnets.save(model, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    for name in ("x", "x.SafeTensors", "x.safetensors.tmp", "v1.2", "x.weights"):
        segnets.save(model, tmp_path / name, preprocessing=segnets.Preprocessing())
    assert card_of(segnets.load(tmp_path / "x")).preprocessing == segnets.Preprocessing()
