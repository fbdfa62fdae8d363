"""Networks that resemble supported ones are refused, or noted if the tensors can't show the difference."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import weights_tools
from segnets.errors import WeightsError
from segnets.registry import BACKBONES
from tests.oracle import torchvision
from tests.peers.compare import MODULES, NUM_CLASSES, absent, randomised, with_norms
from tests.peers.conversions import converted
from tests.peers.look_alikes import LOOK_ALIKES, LookAlike, quiet
from tests.peers.test_convert_mmseg import CONVERSIONS as MMSEG
from weights_tools.recognise.layouts.tables import TIMM


def needs(peer: str) -> None:
    if peer in MODULES and (missing := absent(peer)):
        pytest.skip(f"{', '.join(missing)} not installed: make test-peers")


@pytest.mark.parametrize("look_alike", LOOK_ALIKES, ids=str)
def test_look_alikes(look_alike: LookAlike, tmp_path: Path) -> None:
    needs(look_alike.peer)
    torch.save(quiet(look_alike.state), tmp_path / "w.pth")
    convert = partial(weights_tools.convert, tmp_path / "w.pth", tmp_path / "w.safetensors", allow_nonfinite=True)
    if look_alike.refused:
        with pytest.raises(WeightsError, match=look_alike.message):
            convert()
        assert not (tmp_path / "w.safetensors").exists()
    else:
        assert re.search(look_alike.message, " ".join(convert().notes))


def golden(module: nn.Module, folder: Path, name: str) -> Path:
    """Save an input and the output of the original."""
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        result = module.eval()(x)
    output = result if isinstance(result, torch.Tensor) else result["out"]
    save_file({"input": x, name: output.contiguous()}, folder / "golden.safetensors")
    return folder / "golden.safetensors"


@pytest.mark.parametrize("name", ["tf_mobilenetv3_large_100", "resnetblur18"])
def test_a_golden_file_refuses_look_alikes(name: str, tmp_path: Path) -> None:
    needs("timm")
    module = next(each for each in LOOK_ALIKES if each.network == name).build()
    randomised(module, gain=0.9 if "mobile" in name else 0.6)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="golden"):
        weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", golden=golden(module, tmp_path, "output"))
    assert not (tmp_path / "w.safetensors").exists()


def test_a_golden_file_refuses_torchvisions_network_with_another_eps(tmp_path: Path) -> None:
    """Another eps of torchvision's network leaves no trace in the tensors."""
    module = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=NUM_CLASSES)
    with_norms(module.backbone, partial(nn.BatchNorm2d, eps=1e-3))
    randomised(module, gain=0.6, within="backbone.")
    torch.save(module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="golden"):
        weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", golden=golden(module, tmp_path, "output"))


def test_comparison_with_mmseg_notices_a_dilated_head(tmp_path: Path) -> None:
    needs("mmsegmentation")
    conversion = next(each for each in MMSEG if each.of == "FCN of two convolutions" and "resnet18" in each.model)
    done = converted(conversion, tmp_path)
    arguments = {"decode_head.dilation": 6}
    same, other = (
        weights_tools.compare(done.report.source, done.path, project="mmseg", sizes=[(64, 96)], arguments=given)
        for given in ({}, arguments)
    )
    assert same.holds
    assert not other.holds


def test_all_look_alikes_in_timm_are_listed() -> None:
    """`NetworkTable.look_alikes` lists every model of these families that shares names and shapes with one of ours."""
    needs("timm")
    import timm

    def shapes(name: str) -> frozenset[tuple[str, tuple[int, ...]]]:
        with torch.device("meta"):
            state = quiet(partial(timm.create_model, name)).state_dict()
        return frozenset((key, tuple(tensor.shape)) for key, tensor in state.items())

    plain = {name: name for name in BACKBONES if "resn" in name}
    plain |= {f"mobilenetv3_{size}_100": f"mobilenet_v3_{size}" for size in ("large", "small")}
    plain |= {f"resnet{depth}{kind}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152) for kind in "cd"}
    known = {shapes(name): ours for name, ours in plain.items() if timm.is_model(name)}
    families = timm.list_models(["resnet*", "resnext*", "wide_resnet*", "*mobilenetv3*"], exclude_filters="resnetv2*")
    named = " ".join(what for table in TIMM for what in table.look_alikes.values())
    for name in families:
        if name not in plain and shapes(name) in known:
            assert re.search(rf"\b{name}\b", named), f"{name} has the names of {known[shapes(name)]}"
