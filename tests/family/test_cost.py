"""`segnets.cost` against torchvision's published numbers, and the tables of networks in docs/models.md."""

from __future__ import annotations

import re
from itertools import cycle
from typing import Any, Literal

import pytest
import torch
from torch import nn

import segnets
from benchmarks.models import row, split_document, table
from segnets._cost import Cost, cost
from segnets.backbones import IntermediateLayerGetter
from segnets.registry import BACKBONES, HEADS, MODELS
from tests.oracle import torchvision
from tests.tiers import full_but

PUBLISHED = {
    "fcn_resnet50": "FCN_ResNet50_Weights",
    "fcn_resnet101": "FCN_ResNet101_Weights",
    "deeplabv3_resnet50": "DeepLabV3_ResNet50_Weights",
    "deeplabv3_resnet101": "DeepLabV3_ResNet101_Weights",
    "deeplabv3_mobilenet_v3_large": "DeepLabV3_MobileNet_V3_Large_Weights",
    "lraspp_mobilenet_v3_large": "LRASPP_MobileNet_V3_Large_Weights",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_numbers_equal_those_of_torchvision(name: str) -> None:
    """The numbers of torchvision include the auxiliary classifier and are for 520x520."""
    theirs = getattr(torchvision.models.segmentation, PUBLISHED[name]).DEFAULT.meta
    counted = cost(name, aux_loss=None if name.startswith("lraspp") else True)
    assert counted.parameters == theirs["num_params"]
    assert f"{counted.multiply_adds / 1e9:.3f}" == f"{theirs['_ops']:.3f}"


def test_counts_computed_by_hand() -> None:
    """One 3x3 convolution with stride 2 and one 1x1 convolution."""
    layers = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    model = segnets.SegmentationModel(IntermediateLayerGetter(layers, {"2": "out"}), nn.Conv2d(8, 5, 1))
    counted = cost(model, 6, 10)
    pixels = 3 * 5
    assert counted == Cost(
        parameters=(4 * 9 + 1) * 8 + 2 * 8 + (8 + 1) * 5,
        multiply_adds=pixels * (4 * 9 * 8 + 8 * 5),
        output_stride=2,
    )


@pytest.mark.parametrize("norm_layer", full_but(["sync", "group"], ["batch", "sync", "frozen", "group"]))
def test_a_network_and_its_name_have_equal_cost(norm_layer: str) -> None:
    options: dict[str, Any] = {"num_classes": 5, "in_channels": 2, "norm_layer": norm_layer, "output_stride": 32}
    model = segnets.create_model("deeplabv3_mobilenet_v3_small", **options).half().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modules = list(model.modules())
    counted = cost(model, 64, 48)
    assert counted == cost("deeplabv3_mobilenet_v3_small", 64, 48, **options)
    assert counted.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert counted.output_stride == 32
    assert list(map(id, model.modules())) == list(map(id, modules))
    assert all(module.training for module in modules)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["fcn_resnet18", "lraspp_resnet50", "pspnet_mobilenet_v3_small"])
def test_output_stride_is_as_requested(name: str, output_stride: Literal[8, 16, 32]) -> None:
    assert cost(name, 1, 1, output_stride=output_stride).output_stride == output_stride


def test_errors() -> None:
    for height, width, wrong in ((0, 520, "height=0"), (520, -1, "width=-1"), (1.5, 520, "height=1.5")):
        with pytest.raises(ValueError, match=f"{wrong}: expected a whole number of pixels, 1 to "):
            cost("fcn_resnet18", height, width)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no model 'fcn_resnet19'\. Similar names: fcn_resnet1"):
        cost("fcn_resnet19")
    with pytest.raises(ValueError, match="would have no effect"):
        cost("fcn_resnet18", atrous_rates=[1])
    with pytest.raises(TypeError, match=r"expected a SegmentationModel or the name of one, got Conv2d"):
        cost(nn.Conv2d(3, 3, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="num_classes: a built network already has its options"):
        cost(segnets.create_model("lraspp_mobilenet_v3_small"), num_classes=3)


@pytest.mark.full
@pytest.mark.parametrize("head", HEADS, ids=lambda head: str(head.name))
def test_the_document_has_current_numbers(head: object) -> None:
    builders = sorted((each for each in MODELS.values() if each.head is head), key=lambda each: each.name)
    assert len(builders) == len(BACKBONES)
    assert table(builders) in split_document()[1], "run `python -m benchmarks.models --write`"


def test_the_document_has_current_numbers_of_some_networks() -> None:
    """Every head and every backbone, once or more."""
    rows = split_document()[1].splitlines()
    for head, backbone in zip(cycle(HEADS), BACKBONES):
        assert row(MODELS[f"{head.name}_{backbone}"]) in rows, "run `python -m benchmarks.models --write`"


def test_the_document_has_the_networks_of_the_registry_only() -> None:
    assert re.findall(r"^\| `(\w+)`", split_document()[1], flags=re.MULTILINE) == [
        name for head in HEADS for name in sorted(name for name, each in MODELS.items() if each.head is head)
    ]
