"""`export`: state dicts of other projects, byte for byte, and refusals if their networks compute something else.

tests/peers/test_export.py loads these files into the projects' own networks and compares outputs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import segnets
import weights_tools
from segnets.errors import OutputError, WeightsError
from segnets.registry import build
from tests.oracle import NAMES, randomised, torchvision
from tests.tiers import full_but
from tests.weights_tools.files import assert_same, network
from weights_tools.check.peers import PEERS
from weights_tools.cli import main
from weights_tools.commands._common import PROJECTS
from weights_tools.recognise.layouts import LAYOUTS

SMP: dict[str, Any] = {"align_corners": True, "first_block_dilation": "same"}


def saved(path: Path, name: str, **options: Any) -> nn.Module:
    """Write a segnets file with random weights and return its model."""
    model = randomised(build, name, {"num_classes": 3, **options})
    segnets.save(model, path)
    return model


def state_of(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return state


SLOW = ("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101")  # the same names, larger files


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.full if name in SLOW else ()) for name in NAMES),
        "resnet18",
        "mobilenet_v3_small",
    ],
)
def test_torchvisions_network_loads_the_export_strictly(name: str, tmp_path: Path) -> None:
    theirs = network(name, num_classes=3)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    weights_tools.convert(tmp_path / "a.pth", tmp_path / "w.safetensors")
    report = weights_tools.export(tmp_path / "w.safetensors", tmp_path / "b.pth", project="torchvision")
    assert_same(state_of(tmp_path / "b.pth"), dict(theirs.state_dict()))
    other = network(name, num_classes=3)
    other.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True), strict=True)
    x = torch.randn(1, 3, 33, 65)
    with torch.inference_mode():
        expected, got = theirs(x), other(x)
    pairs = zip(expected.values(), got.values(), strict=True) if isinstance(got, dict) else [(expected, got)]
    assert all(torch.equal(a, b) for a, b in pairs)
    assert name in report.call
    assert torchvision.__name__ in report.call


# Project, our name, options with which ours computes the same as theirs, one of their tensor names.
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("timm", "resnet18", {}, "conv1.weight"),
    ("timm", "resnet18", {"stem": "deep", "downsample": "average"}, "conv1.0.weight"),
    ("timm", "mobilenet_v3_small", {"norm_eps": 1e-5}, "conv_stem.weight"),
    ("transformers", "resnet50", {"stride_in_1x1": True}, "resnet.embedder.embedder.convolution.weight"),
    ("smp", "deeplabv3_resnet18", SMP, "encoder.conv1.weight"),
    ("smp", "deeplabv3plus_resnet18", {**SMP, "atrous_rates": (12, 24, 36)}, "encoder.conv1.weight"),
    (
        "smp",
        "pspnet_resnet18",
        {"align_corners": True, "head_variant": "smp", "output_stride": 32},
        "encoder.conv1.weight",
    ),
    (
        "smp",
        "deeplabv3_mobilenet_v3_small",
        {"align_corners": True, "norm_eps": 1e-5, "first_block_dilation": "previous", "output_stride": 16},
        "encoder.model.conv_stem.weight",
    ),
    (
        "mmseg",
        "fcn_resnet18",
        {"stem": "deep", "head_variant": "mmseg", "basic_block_dilation": "first"},
        "backbone.stem.0.weight",
    ),
    ("mmseg", "pspnet_resnet50", {"aux_loss": True}, "backbone.conv1.weight"),
    (
        "mmseg",
        "deeplabv3_resnet18",
        {"head_variant": "mmseg", "basic_block_dilation": "first"},
        "backbone.conv1.weight",
    ),
]


@pytest.mark.parametrize(
    ("project", "name", "options", "first"),
    full_but(CASES[::3], CASES),
    ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(CASES)],
)
def test_export_and_convert_back(project: str, name: str, options: dict[str, Any], first: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "w.safetensors", name, **options)
    exported = tmp_path / ("exported.safetensors" if project == "smp" else "exported.pth")
    weights_tools.export(tmp_path / "w.safetensors", exported, project=project)
    state = state_of(exported)
    assert first in state
    assert len(state) == len(model.state_dict())
    config: Any = model.config
    known = LAYOUTS[project].export_names(config, list(model.state_dict()))
    chosen = next(iter(known)).chosen
    weights_tools.convert(exported, tmp_path / "back.safetensors", layout=project, options=chosen)
    back = segnets.load(tmp_path / "back.safetensors")
    assert_same(dict(back.state_dict()), dict(model.state_dict()))
    assert back.config == config


@pytest.mark.parametrize(
    ("project", "name", "options", "message"),
    [
        (
            "torchvision",
            "deeplabv3_mobilenet_v3_large",
            {"output_stride": 8},
            "output_stride is 8 in the file and 16 in the project",
        ),
        (
            "torchvision",
            "deeplabv3_mobilenet_v3_large",
            {"head_norm_eps": 1e-3},
            "head_norm_eps is 0.001 in the file and 1e-05 in the project",
        ),
        ("torchvision", "fcn_resnet18", {}, "torchvision has no network that computes what fcn_resnet18"),
        ("smp", "deeplabv3_resnet18", {}, "align_corners is False in the file and True in the project"),
        ("smp", "fcn_resnet18", {}, "segmentation_models_pytorch has no network that computes what fcn_resnet18"),
        ("timm", "mobilenet_v3_small", {}, "norm_eps"),
        ("transformers", "resnet18", {"stem": "deep"}, "transformers"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(
    project: str, name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path / "w.safetensors", name, **options)
    with pytest.raises(WeightsError, match=message):
        weights_tools.export(tmp_path / "w.safetensors", tmp_path / "b.pth", project=project)
    assert not (tmp_path / "b.pth").exists()


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "w.safetensors", "lraspp_mobilenet_v3_large")
    source = str(tmp_path / "w.safetensors")
    torch.save(network("resnet18").state_dict(), tmp_path / "r.pth")
    for arguments, message in (
        (["export-timm", source, str(tmp_path / "b.pth")], "timm has no network that"),
        (["export-torchvision", source, str(tmp_path / "b.onnx")], "must end in one of .pth, .pt, .safetensors"),
        (["export-torchvision", str(tmp_path / "r.pth"), str(tmp_path / "b.pth")], "was not written by segnets"),
        (["export-torchvision", source, source], "exists already"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.pth", "w.safetensors"]
    with pytest.raises(WeightsError, match="unknown project 'keras'"):
        weights_tools.export(source, tmp_path / "b.pth", project="keras")
    with pytest.raises(OutputError, match="the folder"):
        weights_tools.export(source, tmp_path / "missing" / "b.pth", project="torchvision")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "w.safetensors", "lraspp_mobilenet_v3_large")
    arguments = ["export-torchvision", str(tmp_path / "w.safetensors"), str(tmp_path / "b.pth"), "--json"]
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tensors"] == 319
    first = (tmp_path / "b.pth").read_bytes()
    assert main([*arguments, "--force"]) == 0
    assert (tmp_path / "b.pth").read_bytes() == first
    assert set(PROJECTS) == set(PEERS)
