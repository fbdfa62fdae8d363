"""Classifiers without their last layers (`num_classes=0`): outputs and weights files."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets import backbones, cli
from segnets.registry import BACKBONES, HEADS, _WithoutInitialValues
from tests.models.pairs import images
from tests.oracle import randomised, torchvision
from tests.tiers import full_but
from tests.typed import options_of, part

FAMILIES = ["resnet18", "resnet50", "mobilenet_v3_large", "mobilenet_v3_small"]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in FAMILIES),
    ("resnet18", {"stem": "deep", "zero_init_residual": True, "in_channels": 4}),
    ("resnet50", {"norm_layer": "group", "replace_stride_with_dilation": [False, False, True]}),
    ("mobilenet_v3_small", {"dilated": True, "reduced_tail": True, "width_mult": 0.75}),
]
LARGE: list[tuple[str, dict[str, Any]]] = [("resnet50", {}), ("mobilenet_v3_large", {})]
EVERY_VARIANT = full_but([each for each in VARIANTS if each not in LARGE], VARIANTS)


def features_of(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a classifier that remain with `num_classes=0`."""
    last = BACKBONES[name].unused_prefixes({"backbone_stages": 4})
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(last)}
    assert len(state) - len(kept) in (2, 4)
    return kept


@pytest.mark.parametrize("name", full_but([*FAMILIES, "resnet34", "resnext50_32x4d"], BACKBONES))
def test_only_the_last_layers_are_missing(name: str) -> None:
    backbone = BACKBONES[name]
    with torch.device("meta"), _WithoutInitialValues():
        model, full = backbone(num_classes=0), backbone()
    assert [(key, tensor.shape) for key, tensor in model.state_dict().items()] == [
        (key, tensor.shape) for key, tensor in features_of(name, full.state_dict()).items()
    ]
    assert [child for child, _ in model.named_children()] == [child for child, _ in full.named_children()]
    pooled = model(torch.empty(2, 3, 64, 97, device="meta"))
    assert pooled.shape == (2, backbone.stages({"backbone_stages": 4}).out.channels)


@pytest.mark.usefixtures("drawn_initial_values")
@pytest.mark.parametrize(("name", "options"), EVERY_VARIANT, ids=str)
def test_features_have_the_initial_weights_of_a_classifier(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(5)
    full = BACKBONES[name](**options)
    torch.manual_seed(5)
    model = BACKBONES[name](num_classes=0, **options)
    expected = features_of(name, full.state_dict())
    assert model.state_dict().keys() == expected.keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize("name", full_but(["resnet18", "resnet50", "mobilenet_v3_small"], FAMILIES))
def test_output_equals_torchvisions_pooled_features(name: str) -> None:
    theirs: nn.Module = randomised(torchvision.models.get_model, name, weights=None)
    ours = randomised(BACKBONES[name], seed=1, num_classes=0)
    setattr(theirs, "fc" if name.startswith("resnet") else "classifier", nn.Identity())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = images(2, 65, 97)
    with torch.inference_mode():
        result = ours.eval()(x)
        assert torch.equal(result, theirs.eval()(x))
    assert result.ndim == 2


@pytest.mark.parametrize("name", full_but(["resnet18", "mobilenet_v3_small"], FAMILIES))
def test_features_scripted_and_exported(name: str) -> None:
    model = randomised(BACKBONES[name], num_classes=0).eval()
    x = images(2, 65, 97)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's own
        scripted = torch.jit.script(model)
    exported = torch.export.export(model, (x,)).module()
    with torch.inference_mode():
        result = model(x)
        assert torch.equal(scripted(x), result)
        torch.testing.assert_close(exported(x), result)


def test_features_can_be_trained() -> None:
    model = backbones.mobilenet_v3_small(num_classes=0)
    model(images(2, 64, 64)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("name", "options"), EVERY_VARIANT, ids=str)
def test_a_file_records_the_config(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = randomised(BACKBONES[name], num_classes=np.int64(0), **options).eval()
    recorded = {key: value for key, value in options.items() if key != "zero_init_residual"}
    assert model.config == segnets.ModelConfig(name, {"num_classes": 0, **recorded})
    assert type(options_of(model)["num_classes"]) is int
    segnets.save(model, tmp_path / "b.safetensors")
    loaded = segnets.load(tmp_path / "b.safetensors")
    assert loaded.config == model.config
    x = torch.randn(2, options.get("in_channels", 3), 64, 97)
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))
    with pytest.raises(segnets.WeightsError, match="classes: 1 names for a model with 0 classes"):
        segnets.save(model, tmp_path / "b.safetensors", classes=["one"])


def test_loading_requires_exactly_the_tensors_of_the_features(tmp_path: Path) -> None:
    full, model = backbones.resnet18(num_classes=3), backbones.resnet18(num_classes=0)
    segnets.save(model, tmp_path / "b.safetensors")
    missing = r"does not fit resnet18\(num_classes=3\): 2 missing\n  - fc\.weight\n  - fc\.bias"
    with pytest.raises(segnets.WeightsError, match=missing):
        segnets.load_weights(full, tmp_path / "b.safetensors")
    with pytest.raises(segnets.WeightsError, match=r"does not fit resnet18\(num_classes=0\): 2 unexpected\n  \+ fc"):
        segnets.load_weights(model, full.state_dict())
    report = segnets.load_weights(model, features_of("resnet18", full.state_dict()))
    assert report.loaded == len(model.state_dict())
    assert torch.equal(part(model, "layer4.1.conv2.weight"), part(full, "layer4.1.conv2.weight"))


PAIRS = list(itertools.product([head.name for head in HEADS], ["resnet18", "mobilenet_v3_small"]))


@pytest.mark.parametrize(("head", "backbone"), full_but([*PAIRS[1::4], PAIRS[2]], PAIRS))
def test_every_builder_loads_features_as_backbone_weights(head: str, backbone: str, tmp_path: Path) -> None:
    full, model = randomised(BACKBONES[backbone], num_classes=3), BACKBONES[backbone](num_classes=0)
    segnets.load_weights(model, features_of(backbone, full.state_dict()))
    segnets.save(full, tmp_path / "full.safetensors")
    segnets.save(model, tmp_path / "features.safetensors")
    torch.save(model.state_dict(), tmp_path / "features.pth")

    def filled_from(source: Any) -> dict[str, Tensor]:
        model = segnets.create_model(f"{head}_{backbone}", head_channels=32, weights_backbone=source)
        return model.backbone.state_dict()

    expected = filled_from(tmp_path / "full.safetensors")
    for source in (tmp_path / "features.safetensors", tmp_path / "features.pth", model.state_dict()):
        torch.manual_seed(1)
        filled = filled_from(source)
        assert all(torch.equal(filled[key], tensor) for key, tensor in expected.items())
    assert len(filled) == len(model.state_dict()), "every tensor was used"


def test_backbone_weights_with_other_options(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    model = backbones.resnet50(num_classes=0, stride_in_1x1=True)
    segnets.save(model, path)
    with pytest.warns(UserWarning, match=r"made for stride_in_1x1=True \(here False\)"):
        segnets.create_model("fcn_resnet50", weights_backbone=path, head_channels=32)
    fewer = segnets.create_model(
        "pspnet_resnet50", weights_backbone=path, stride_in_1x1=True, backbone_stages=2, in_channels=1
    )
    assert torch.equal(part(fewer.backbone, "layer2.3.conv3.weight"), part(model, "layer2.3.conv3.weight"))
    torch.testing.assert_close(part(fewer.backbone, "conv1.weight"), part(model, "conv1.weight").sum(1, keepdim=True))


def test_features_are_not_segmentation_weights(tmp_path: Path) -> None:
    segnets.save(backbones.resnet18(num_classes=0), tmp_path / "b.safetensors")
    for source in (tmp_path / "b.safetensors", backbones.resnet18(num_classes=0).state_dict()):
        with pytest.raises(segnets.WeightsError, match="Load a backbone alone with weights_backbone="):
            segnets.create_model("fcn_resnet18", weights=source)
    with pytest.raises(
        segnets.WeightsError, match=r"the weights are for resnet18, not for resnet34\. Call that builder"
    ):
        segnets.create_model("fcn_resnet34", weights_backbone=tmp_path / "b.safetensors")


def test_commands_on_a_file_of_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "b.safetensors")
    model = backbones.mobilenet_v3_small(num_classes=0)
    segnets.save(model, path)
    assert cli.main(["info", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["model"], facts["options"], facts["classes"]) == ("mobilenet_v3_small", {"num_classes": 0}, [])
    assert facts["tensors"] == len(model.state_dict())
    assert cli.main(["info", path]) == 0
    assert "options                 num_classes=0\n" in capsys.readouterr().out
    assert cli.main(["list", "*mobilenet_v3_small"]) == 0
    assert capsys.readouterr().out.split() == [f"{head.name}_mobilenet_v3_small" for head in HEADS]
    assert cli.main(["export", path, str(tmp_path / "b.ts")]) == 1
    assert "Export a segmentation model (backbone and classifier)" in capsys.readouterr().err
