"""Layouts that are tables: one to one, told apart, with what no tensor shows settled aloud or chosen.

That a converted network computes what the original does is tests/peers/test_convert.py's to show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segnets
import weights_tools
from segnets.errors import WeightsError
from segnets.registry import MODELS, build_described
from tests.oracle import randomise_
from tests.weights_tools.files import assert_same
from weights_tools.cli import main
from weights_tools.layouts.origins import MMSEG, SMP, VAINF
from weights_tools.layouts.renaming import Origin, rename_back

ALL = [
    pytest.param(project, origin, id=f"{project}-{origin.name}")
    for project, origins in (("smp", SMP), ("mmseg", MMSEG), ("vainf", VAINF))
    for origin in origins
]
State = dict[str, Tensor]


def random_model(origin: Origin, **options: Any) -> nn.Module:
    """Ours, as a file of this origin would have it."""
    settled = MODELS[f"{origin.head}_resnet18"].settle({"num_classes": 4, "head_channels": 16, **options})
    model = build_described(f"{origin.head}_resnet18", settled).to_empty(device="cpu")
    randomise_(model)
    return model


def theirs(origin: Origin, state: State) -> State:
    """Our tensors under the names that the other project has for them: the table, read backwards."""
    body = origin.bodies[-1] if origin in MMSEG else origin.bodies[0]
    names = rename_back(state, {**body.table, **origin.table})
    assert names is not None
    return {names[ours]: tensor for ours, tensor in state.items()}


def head_options(origin: Origin) -> dict[str, Any]:
    return {name: value for name, value in origin.required.items() if name == "head_variant"}


@pytest.mark.parametrize(("project", "origin"), ALL)
def test_every_tensor_has_its_place_and_comes_back(project: str, origin: Origin, tmp_path: Path) -> None:
    model = random_model(origin, **head_options(origin))
    state = theirs(origin, model.state_dict())
    assert len(state) == len(model.state_dict())
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    report = weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert (report.layout, report.model) == (project, f"{origin.head}_resnet18")
    loaded = segnets.load(tmp_path / "w.safetensors")
    assert_same(loaded.state_dict(), model.state_dict())
    assert {"num_classes": 4, "head_channels": 16}.items() <= loaded.config.options.items()
    assert origin.required.items() <= loaded.config.options.items()
    for name, value in origin.open.items():
        if value is not None and name in loaded.config.options:
            assert loaded.config.options[name] == value, "the project's default"
            assert f"{name}={value}" in " ".join(report.notes), "and said aloud"


def test_what_no_tensor_shows_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = theirs(SMP[0], random_model(SMP[0]).state_dict())
    torch.save(state, tmp_path / "w.pth")
    arguments = ["convert", str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors")]
    assert main([*arguments, "--option", "output_stride=16", "--option", "atrous_rates=[6, 12, 18]"]) == 0
    capsys.readouterr()
    options = segnets.load(tmp_path / "w.safetensors").config.options
    assert (options["output_stride"], options["atrous_rates"]) == (16, [6, 12, 18])
    for wrong, message in (
        ("num_classes=5", "the option num_classes is not open"),
        ("align_corners=false", "the option align_corners is not open"),
        ("output_stride=7", "output_stride=7: expected one of 8, 16, 32"),
        ("output_stride", "expected NAME=VALUE"),
    ):
        assert main([*arguments, "--force", "--option", wrong]) == 1
        complaint = capsys.readouterr().err
        assert message in complaint
        assert complaint.count("\n") == 1
    assert segnets.load(tmp_path / "w.safetensors").config.options["output_stride"] == 16, "untouched"


def test_fewer_stages_show_and_are_not_chosen(tmp_path: Path) -> None:
    """SMP's PSPNet keeps the deeper stages of its encoder and never runs them."""
    whole = random_model(SMP[3], head_variant="smp", backbone_stages=2)
    deeper = random_model(SMP[3], head_variant="smp").state_dict()
    unused = {
        name: tensor for name, tensor in deeper.items() if name.startswith(("backbone.layer3", "backbone.layer4"))
    }
    torch.save(theirs(SMP[3], {**whole.state_dict(), **unused}), tmp_path / "w.pth")
    weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    loaded = segnets.load(tmp_path / "w.safetensors")
    assert (loaded.config.options["backbone_stages"], loaded.config.options["output_stride"]) == (2, 8)
    assert_same(loaded.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {**state, "decoder.extra.weight": torch.ones(2)}, "with tensors that have no place here: 'deco"),
        (lambda state: {k: t for k, t in state.items() if "layer2" not in k}, "on a ResNet of 2-0-2-2 basic blocks"),
        (lambda state: {k: t for k, t in state.items() if not k.startswith("segm")}, "gives no scores"),
        (lambda state: {k: t for k, t in state.items() if "layer4.1.bn2" not in k}, "5 missing"),
        (
            lambda state: {k.replace("encoder.", "encoder.model.features."): t for k, t in state.items()},
            "an encoder that",
        ),
    ],
)
def test_relatives_are_refused_with_the_reason(change: Any, message: str, tmp_path: Path) -> None:
    torch.save(change(theirs(SMP[0], random_model(SMP[0]).state_dict())), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_torchvisions_geometry_is_not_open(tmp_path: Path) -> None:
    torch.save(segnets.lraspp_mobilenet_v3_large().state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="has one geometry; the option output_stride is not open"):
        weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", options={"output_stride": 8})
