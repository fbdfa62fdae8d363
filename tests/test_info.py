"""`segnets info` describes weights files and exports, and programs for weights refuse an export by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import segnets
import weights_tools
from segnets import backbones, cli
from segnets.card import ModelCard
from segnets.errors import WeightsError
from segnets.files import is_export
from tests.deploy.common import SMALL, one_thread, small, tiny

__all__ = ["one_thread", "small"]


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert cli.main(["info", str(path)]) == 0
    return {line[:24].strip(): line[24:] for line in capsys.readouterr().out.splitlines()}


def test_an_export_is_described_without_running_it(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = info(small, capsys)
    assert facts["export"] == "torchscript"
    assert facts["model"] == "lraspp_mobilenet_v3_large"
    assert facts["classes"] == "background, cat, dög, tree, sky"
    assert (facts["dtype"], facts["device"], facts["target"]) == ("float32", "cpu", "portable")
    assert facts["size_bytes"] == str(small.stat().st_size)
    assert facts["preprocessing"].startswith("resize=fixed, size=[64, 80], ")
    assert facts["provenance"] == "licence=BSD-3-Clause"
    assert cli.main(["info", str(small), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["num_classes"], answer["mask_dtype"]) == (5, "uint8")


def test_an_onnx_export_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    path = tmp_path / "m.onnx"
    segnets.export(tiny(classes=3), path, preprocessing=SMALL)
    facts = info(path, capsys)
    assert (facts["export"], facts["opset"], facts["num_classes"]) == ("onnx", "20", "3")
    with pytest.raises(WeightsError, match=r"is an ONNX model that segnets exported .* pass the \.safetensors"):
        weights_tools.inspect(path)
    with pytest.raises(WeightsError, match="is an export of segnets, not weights"):
        segnets.load(path)
    shutil.copyfile(path, tmp_path / "cut.onnx")
    with (tmp_path / "cut.onnx").open("r+b") as file:
        file.truncate(path.stat().st_size - 40)
    assert cli.main(["info", str(tmp_path / "cut.onnx")]) == 1
    assert "is truncated or damaged" in capsys.readouterr().err


def test_an_export_given_as_weights_is_named(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = (
        r"is an export of segnets \(torchscript, lraspp_mobilenet_v3_large, 5 classes\)\. .*pass the \.safetensors"
    )
    with pytest.raises(WeightsError, match=message):
        weights_tools.inspect(small)
    with pytest.raises(WeightsError, match=message):
        weights_tools.convert(small, tmp_path / "w.safetensors")
    renamed = shutil.copyfile(small, tmp_path / "w.pth")
    for read in (
        segnets.load,
        lambda path: segnets.load_weights(backbones.resnet18(), path),
        lambda path: segnets.create_model("fcn_resnet18", weights=path),
    ):
        with pytest.raises(WeightsError, match=r"w\.pth: is an export of segnets, not weights; pass the"):
            read(renamed)
    assert cli.main(["export", str(small), str(tmp_path / "m.onnx")]) == 1
    assert "`segnets info " in capsys.readouterr().err


def test_other_files_are_no_exports(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    (tmp_path / "b").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "c").write_bytes(b"\x08\x0a\x12\x07pytorch")
    segnets.save(backbones.resnet18(num_classes=2), tmp_path / "d.safetensors")
    assert not any(is_export(tmp_path / name) for name in ("a.pth", "b", "c", "d.safetensors", "missing", "."))


def test_a_classifier_has_no_size_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segnets.save(backbones.resnet18(num_classes=2), tmp_path / "w.safetensors")
    assert info(tmp_path / "w.safetensors", capsys)["preprocessing"] == (
        "mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], channel_order=RGB"
    )


def test_what_nothing_states_is_named_with_the_options_that_change_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = segnets.create_model("lraspp_resnet18", num_classes=2)
    model.card = ModelCard().assuming()
    segnets.save(model, tmp_path / "w.safetensors")
    facts = info(tmp_path / "w.safetensors", capsys)
    assert facts["assumed"] == (
        "short side resized to 520 (--resize), mean 0.485,0.456,0.406 (--mean), std 0.229,0.224,0.225 (--std): the "
        "source does not record what the network was trained with"
    )
    assert facts["provenance"] == ""
    assert facts["classes"] == "none"
    model.card = model.card.preparing(SMALL)
    segnets.save(model, tmp_path / "w.safetensors")
    assert "assumed" not in info(tmp_path / "w.safetensors", capsys)
