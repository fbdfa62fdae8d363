"""Files that version 0.1 wrote load, verify, and give the masks that they gave then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

import segnets
from segnets.card import JSON, ModelCard
from segnets.cli import main
from segnets.deploy import read_contract
from segnets.deploy.formats._cpu import this_cpu
from tests.compatibility.files import DEEPLAB, EXPORTS, LRASPP, image, mask, unpack


def load(path: Path) -> tuple[nn.Module, ModelCard]:
    model = segnets.load(path)
    assert isinstance(model, segnets.SegmentationModel)
    assert model.card is not None
    return model, model.card


@pytest.mark.parametrize("network", [LRASPP, DEEPLAB])
def test_weights(network: str, tmp_path: Path) -> None:
    model, card = load(unpack(f"{network}.safetensors", tmp_path))
    assert card.classes == ("road", "tree", "sky")
    assert card.palette[0] == (128, 64, 128)
    assert card.provenance["licence"] == "BSD-3-Clause"
    assert torch.equal(segnets.segment(model, image(), card.preprocessing), mask(network))


def _instructions(processor: Mapping[str, JSON]) -> set[str]:
    instructions = processor.get("instructions", [])
    assert isinstance(instructions, list)
    return set(map(str, instructions))


@pytest.mark.parametrize("name", EXPORTS)
def test_exports(name: str, tmp_path: Path) -> None:
    network, differing = EXPORTS[name]
    path = unpack(name, tmp_path)
    model, card = load(unpack(f"{network}.safetensors", tmp_path))
    contract = read_contract(path)
    assert contract.card.classes == card.classes
    assert contract.card.preprocessing == card.preprocessing
    missing = _instructions(contract.processor) - _instructions(this_cpu())
    if missing:
        with pytest.raises(segnets.ExportError, match=r"instructions that this .* lacks"):
            segnets.load_exported(path)
        return
    report = segnets.verify(path, against=model)
    assert report.passed, report
    got = segnets.load_exported(path).segment(image())
    # CPUs with other instructions round bfloat16 and int8 differently.
    assert int((got != mask(network)).sum()) <= 2 * differing


def test_joined(tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(unpack("joined.onnx", tmp_path))
    (got,) = session.run(None, {"image": image().numpy()})
    assert torch.equal(torch.from_numpy(got), mask(LRASPP))


def test_join_takes_an_older_export(tmp_path: Path) -> None:
    segnets.join_onnx(unpack("network.onnx", tmp_path), tmp_path / "again.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "again.onnx")
    (got,) = session.run(None, {"image": image().numpy()})
    assert torch.equal(torch.from_numpy(got), mask(LRASPP))


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, path = unpack(f"{LRASPP}.safetensors", tmp_path), unpack("portable.ts", tmp_path)
    assert main(["verify", str(path), "--against", str(weights)]) == 0
    assert "passed" in capsys.readouterr().out
