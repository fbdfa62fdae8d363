"""`inspect` of files that can't be converted as they are: what it still reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.weights_tools.files import network
from weights_tools import convert, inspect
from weights_tools.cli import main

State = dict[str, Tensor]
SEVERAL = "the checkpoint holds several sets of weights: model, model_ema. Choose one with --key."


def test_each_of_several_sets_of_weights_is_described(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{name}": tensor for name, tensor in state.items()}}
    path = tmp_path / "w.pth"
    torch.save({"model": state, "model_ema": averaged, "epoch": 3}, path)
    report = inspect(path)
    assert report.refused == SEVERAL
    assert [(c.key, c.layout, c.model, c.tensors, c.refused) for c in report.candidates] == [
        ("model", "torchvision", "lraspp_mobilenet_v3_large", 319, None),
        ("model_ema", "torchvision", "lraspp_mobilenet_v3_large", 319, None),
    ]
    assert main(["inspect", str(path)]) == 1
    table = capsys.readouterr().out
    network_ = "lraspp_mobilenet_v3_large(num_classes=21, aux_loss=False), layout torchvision, 319 tensors"
    assert f"candidate  model: {network_}\ncandidate  model_ema: {network_}\nrefused    {SEVERAL}\n" in table
    assert main(["inspect", "--json", str(path)]) == 1
    candidates = json.loads(capsys.readouterr().out)["candidates"]
    assert [candidate["key"] for candidate in candidates] == ["model", "model_ema"]
    assert candidates[0]["options"]["num_classes"] == 21
    for candidate in report.candidates:
        assert inspect(path, key=candidate.key).candidates == ()
        convert(path, tmp_path / f"{candidate.key}.safetensors", key=candidate.key)


def test_refused_candidates_give_a_reason(tmp_path: Path, state: State) -> None:
    name = "classifier.low_classifier.bias"
    broken = {**state, name: torch.full_like(state[name], torch.nan)}
    content = {
        "model": broken,
        "model_ema": {"a": torch.ones(2)},
        "state_dict": dict(list(state.items())[:-1]),
    }
    torch.save(content, tmp_path / "w.pth")
    found = {candidate.key: candidate for candidate in inspect(tmp_path / "w.pth").candidates}
    assert found["model"].model == "lraspp_mobilenet_v3_large"
    assert found["model"].refused == f"1 tensors hold NaN or infinite values: {name} (21 of 21)"
    assert found["model_ema"].refused == "no known network has these 1 tensors, whose names begin with 'a'"
    assert found["state_dict"].refused is not None
    assert "missing" in found["state_dict"].refused
    quick = {candidate.key: candidate for candidate in inspect(tmp_path / "w.pth", data=False).candidates}
    assert quick["model"].refused is None
    for line in str(inspect(tmp_path / "w.pth")).splitlines():
        assert not line.startswith("candidate") or ": " in line


def test_number_of_candidates_is_bounded(tmp_path: Path) -> None:
    torch.save({f"net\n{i}": {"w": torch.ones(1)} for i in range(90)}, tmp_path / "w.pth")
    report = inspect(tmp_path / "w.pth")
    assert len(report.candidates) == 10
    assert report.candidates[0].key == "net\\n0"
    assert report.refused is not None
    assert report.refused.endswith("and 80 more. Choose one with --key.")


def test_values_of_an_unknown_network_are_checked(tmp_path: Path) -> None:
    strange = {
        "conv.weight": torch.zeros(2, 3, 3, 3),
        "conv2.weight": torch.ones(2, 3, 3, 3),
        "bn.running_var": torch.tensor([1.0, -1.0]),
        "x": torch.tensor([torch.nan]),
    }
    torch.save(strange, tmp_path / "w.pth")
    report = inspect(tmp_path / "w.pth")
    assert report.refused is not None
    assert report.doubts == (
        "1 tensors hold NaN or infinite values: x (1 of 1)",
        "1 tensors hold negative variances: bn.running_var (-1.0e+00)",
        "1 of 2 convolution kernels hold only zeros: conv.weight",
    )
    assert inspect(tmp_path / "w.pth", data=False).doubts == ()


def test_views_of_one_storage_are_not_all_read(tmp_path: Path) -> None:
    """A file of 10 MB with 40,000 views describes 200 GB."""
    storage = torch.full((1 << 20,), torch.nan)
    torch.save({f"w{i}": storage for i in range(40_000)}, tmp_path / "w.pth")
    report = inspect(tmp_path / "w.pth")
    assert report.refused is not None
    assert report.doubts == ()


def test_values_of_a_known_network_are_checked(tmp_path: Path) -> None:
    state = dict(network(num_classes=2).state_dict())
    zero = "backbone.0.0.weight"
    state[zero] = torch.zeros_like(state[zero])
    torch.save(state, tmp_path / "net-00000000.pth")
    report = inspect(tmp_path / "net-00000000.pth")
    assert report.refused is None
    assert report.sha256 is not None
    assert report.doubts == (
        f"the file's name states the checksum 00000000, but its sha256 begins with {report.sha256[:8]}",
        f"1 of 66 convolution kernels hold only zeros: {zero}",
    )
