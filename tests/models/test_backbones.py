"""ResNet and MobileNetV3 classifiers against torchvision's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import segnets
from segnets import backbones
from segnets.registry import BACKBONES
from tests.models.pairs import images
from tests.oracle import CLASSIFIERS, randomise_, randomised, torchvision
from tests.tiers import full_but

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("resnet18", {}),
    ("resnet34", {"num_classes": 10}),
    ("resnet50", {"zero_init_residual": True}),
    ("resnet18", {"zero_init_residual": True}),
    ("resnext50_32x4d", {}),
    ("resnext50_32x4d", {"replace_stride_with_dilation": [False, False, True]}),
    ("wide_resnet50_2", {"replace_stride_with_dilation": [False, False, True]}),
    ("mobilenet_v3_small", {}),
    ("mobilenet_v3_large", {"num_classes": 10}),
    ("mobilenet_v3_small", {"dilated": True}),
    ("mobilenet_v3_large", {"dilated": True, "reduced_tail": True, "width_mult": 0.75}),
]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_state_dict_has_the_names_and_shapes_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        ours = BACKBONES[name]().state_dict()
        theirs = torchvision.models.get_model(name).state_dict()
    assert [(key, tensor.shape) for key, tensor in ours.items()] == [
        (key, tensor.shape) for key, tensor in theirs.items()
    ]


SLOW = ("wide_resnet50_2", "resnet34")  # only wider, or with more blocks, than others
# Others have the same kinds of blocks and the same option.
LIKE_OTHERS: list[tuple[str, dict[str, Any]]] = [("resnext50_32x4d", {}), ("resnet50", {"zero_init_residual": True})]


@pytest.mark.usefixtures("drawn_initial_values")
@pytest.mark.parametrize(
    ("name", "options"),
    full_but([each for each in VARIANTS if each[0] not in SLOW and each not in LIKE_OTHERS], VARIANTS),
    ids=str,
)
def test_same_initial_weights_and_bit_identical_outputs(name: str, options: dict[str, Any]) -> None:
    options = dict(options)
    if "dilated" in options:  # torchvision takes these options in a private function
        table = torchvision.models.mobilenetv3._mobilenet_v3_conf(name, **options)
        torch.manual_seed(3)
        theirs: nn.Module = torchvision.models.MobileNetV3(*table)
    else:
        torch.manual_seed(3)
        theirs = torchvision.models.get_model(name, weights=None, **options)
    torch.manual_seed(3)
    ours = BACKBONES[name](**options)
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], tensor), key
    randomise_(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = images(2, 64, 97)
    with torch.inference_mode():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


EVERY_RUN = [(False, True, True), (True, False, True)]
DILATED = [
    pytest.param(stages, marks=() if stages in EVERY_RUN else pytest.mark.full)
    for stages in itertools.product([False, True], repeat=3)
]


@pytest.mark.parametrize("dilate", DILATED)
def test_every_combination_of_dilated_stages(dilate: tuple[bool, bool, bool]) -> None:
    """Compare the features of every stage. torchvision's own test only compares the final shape."""
    dilated: dict[str, Any] = {"replace_stride_with_dilation": list(dilate)}
    theirs: nn.Module = randomised(torchvision.models.resnet50, weights=None, **dilated)
    ours = randomised(backbones.resnet50, seed=1, **dilated)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    layers = {f"layer{stage}": f"layer{stage}" for stage in (1, 2, 3, 4)}
    x = images(1, 65, 97)
    with torch.inference_mode():
        our_features = segnets.IntermediateLayerGetter(ours.eval(), layers)(x)
        their_features = torchvision.models._utils.IntermediateLayerGetter(theirs.eval(), layers)(x)
    assert all(torch.equal(our_features[key], their_features[key]) for key in layers)
    stride = 32 // 2 ** sum(dilate)
    assert our_features["layer4"].shape[-2:] == (-(-65 // stride), -(-97 // stride))


def test_a_dilated_backbone_records_its_dilation() -> None:
    with torch.device("meta"):
        model = backbones.resnet50(num_classes=5, replace_stride_with_dilation=[False, True, True])
    assert model.config == segnets.ModelConfig(
        "resnet50", {"num_classes": 5, "replace_stride_with_dilation": [False, True, True]}
    )


def test_basic_blocks_can_dilate() -> None:
    with pytest.raises(NotImplementedError, match="Dilation > 1 not supported in BasicBlock"):
        torchvision.models.resnet18(replace_stride_with_dilation=[False, True, True])
    model = backbones.resnet18(replace_stride_with_dilation=[False, True, True])
    dilations = [[block.conv1.dilation[0], block.conv2.dilation[0]] for block in (*model.layer3, *model.layer4)]
    assert dilations == [[1, 2], [2, 2], [2, 4], [4, 4]], "timm's rule"


@pytest.mark.parametrize("make", [backbones.resnet18, torchvision.models.resnet18])
def test_basic_blocks_refuse_groups(make: Any) -> None:
    with pytest.raises(ValueError, match="BasicBlock only supports groups=1 and base_width=64"):
        make(groups=2)


@pytest.mark.parametrize("make", [backbones.resnet50, torchvision.models.resnet50])
def test_dilation_needs_three_values(make: Any) -> None:
    with pytest.raises(ValueError, match="replace_stride_with_dilation should be None or a 3-element tuple"):
        make(replace_stride_with_dilation=[True])


def test_mobilenet_refuses_missing_blocks_and_unknown_strides() -> None:
    with pytest.raises(ValueError, match="blocks is empty"):
        segnets.backbones.MobileNetV3([], 128)
    with pytest.raises(ValueError, match="stride=3: an inverted residual has stride 1 or 2"):
        segnets.layers.InvertedResidualSpec(8, 3, 8, 8, False, "relu", 3)


def test_group_norm_replaces_batch_norm() -> None:
    model = backbones.resnet50(norm_layer=lambda channels: nn.GroupNorm(8, channels))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    model(images(1, 64, 64)).sum().backward()
