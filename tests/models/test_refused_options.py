"""Options that can't have their value, would have no effect, or contradict another: refused in one line, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn

import segnets
from segnets import backbones

WRONG: Any = "x"  # a value that the type hints rule out

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("fcn_resnet50", {"output_stride": 4}, "output_stride=4: expected one of 8, 16, 32"),
    ("fcn_resnet50", {"output_stride": "8"}, "output_stride='8': expected one of 8, 16, 32"),
    ("fcn_resnet50", {"output_stride": 16.0}, "output_stride=16.0: expected one of 8, 16, 32"),
    (
        "fcn_resnet50",
        {"num_classes": 0},
        "num_classes=0: expected an integer from 1 to 1,048,576, counting the background",
    ),
    ("lraspp_mobilenet_v3_small", {"num_classes": False}, "num_classes=False: expected an integer from 1"),
    ("fcn_resnet50", {"num_classes": 10**30}, "num_classes=10*: expected an integer from 1 to 1,048,576"),
    ("fcn_resnet50", {"multi_grid": b"abc"}, "multi_grid=b'abc': expected one dilation"),
    ("fcn_resnet50", {"norm_eps": np.array([1e-4, 1.0])}, "norm_eps=array.*: expected a number above 0"),
    ("fcn_resnet50", {"stem": np.array(["deep"])}, "stem=array.*: expected 'plain' or 'deep'"),
    ("fcn_resnet50", {"norm_eval": 1}, "norm_eval=1: expected one of False, True, 'backbone'"),
    ("pspnet_resnet50", {"head_channels": 1, "norm_layer": "group"}, "a layer of one channel has no group of two"),
    ("fcn_resnet50", {"in_channels": 0}, "in_channels=0: expected an integer from 1"),
    ("fcn_resnet50", {"norm_layer": "layer"}, "norm_layer='layer': expected one of 'batch', 'sync', 'frozen', 'group'"),
    ("fcn_resnet50", {"norm_layer": nn.GroupNorm}, "norm_layer=<class .*: expected one of 'batch'"),
    ("fcn_resnet50", {"norm_eps": 0}, "norm_eps=0: expected a number above 0 and below 1"),
    ("fcn_resnet50", {"norm_eps": float("nan")}, "norm_eps=nan: expected a number above 0"),
    ("fcn_resnet50", {"head_dropout": 1.0}, "head_dropout=1.0: expected a probability, 0 <= p < 1"),
    ("deeplabv3_resnet50", {"aspp_norm_eps": 0}, "aspp_norm_eps=0: expected a number above 0 and below 1"),
    ("deeplabv3plus_resnet50", {"aspp_norm_eps": True}, "aspp_norm_eps=True: expected a number above 0 and below 1"),
    ("fcn_resnet50", {"align_corners": 1}, "align_corners=1: expected True or False"),
    ("fcn_resnet50", {"norm_eval": "head"}, "norm_eval='head': expected one of False, True, 'backbone'"),
    ("fcn_resnet50", {"multi_grid": ()}, r"multi_grid=\(\): expected one dilation for each block"),
    (
        "fcn_resnet50",
        {"multi_grid": (1, 2)},
        r"multi_grid=\(1, 2\): expected 3 dilations, one per block of the fourth stage",
    ),
    ("deeplabv3_resnet50", {"atrous_rates": (12, 0)}, r"atrous_rates=\(12, 0\): expected integers of at least 1"),
    ("deeplabv3_resnet50", {"atrous_rates": "12"}, "atrous_rates='12': expected integers"),
    ("fcn_resnet50", {"head_variant": "smp"}, "head_variant='smp': fcn has torchvision and mmseg"),
    ("pspnet_resnet50", {"head_variant": 3}, "head_variant=3: expected a string"),
    # Options that would have no effect.
    (
        "fcn_resnet50",
        {"atrous_rates": (6, 12, 18)},
        r"would have no effect in this fcn_resnet50: the option needs ASPP",
    ),
    (
        "pspnet_resnet50",
        {"aspp_separable": True},
        "would have no effect in this pspnet_resnet50: the option needs ASPP",
    ),
    (
        "fcn_resnet50",
        {"aspp_norm_eps": 1e-5},
        "would have no effect in this fcn_resnet50: the option needs ASPP \\(heads",
    ),
    ("pspnet_resnet50", {"aspp_norm_eps": 1e-3}, "the option needs ASPP"),
    ("lraspp_resnet50", {"aspp_norm_eps": 1e-3}, "the option needs ASPP"),
    ("fcn_resnet50", {"pool_norm": False}, "the option needs a branch that pools the whole image"),
    ("lraspp_resnet50", {"head_dropout": 0.5}, "the option needs a head with dropout \\(all but lraspp\\)"),
    ("fcn_resnet50", {"basic_block_dilation": "first"}, "the option needs dilated BasicBlocks: resnet18 or resnet34"),
    ("fcn_resnet18", {"stride_in_1x1": True}, "the option needs Bottleneck blocks \\(resnet50 and deeper\\)"),
    ("fcn_resnet18", {"output_stride": 32, "basic_block_dilation": "both"}, "the option needs dilated BasicBlocks"),
    ("fcn_resnet50", {"output_stride": 32, "first_block_dilation": "same"}, "the option needs a dilated stage"),
    (
        "fcn_resnet50",
        {"output_stride": 16, "multi_grid": (1, 2, 4), "first_block_dilation": "same"},
        "the option needs a dilated stage whose dilations multi_grid does not set",
    ),
    (
        "fcn_mobilenet_v3_large",
        {"output_stride": 32, "first_block_dilation": "same"},
        "the option needs a dilated stage",
    ),
    ("fcn_mobilenet_v3_large", {"stem": "deep"}, "stem='deep' would have no effect .*: the option needs a ResNet"),
    ("fcn_mobilenet_v3_large", {"downsample": "average"}, "the option needs a ResNet"),
    ("fcn_mobilenet_v3_large", {"multi_grid": (1, 2, 4)}, "the option needs all four stages of a ResNet"),
    ("fcn_mobilenet_v3_large", {"backbone_stages": 2}, "the option needs a ResNet"),
    (
        "fcn_resnet50",
        {"norm_layer": "group", "norm_eval": True},
        "norm_eval=True would have no effect: .* no batch norm",
    ),
    ("fcn_resnet50", {"norm_layer": "frozen", "norm_eval": "backbone"}, "there is no batch norm"),
    # Options that contradict each other.
    (
        "pspnet_resnet50",
        {"backbone_stages": 2, "output_stride": 16},
        "output_stride=16: expected at most 8 with backbone_stages=2",
    ),
    ("pspnet_resnet50", {"backbone_stages": 3, "multi_grid": (1, 2, 4)}, "the option needs all four stages"),
    ("lraspp_resnet50", {"backbone_stages": 2}, "backbone_stages=2 are too few for lraspp_resnet50, .*layer2, layer2"),
    ("deeplabv3plus_resnet50", {"backbone_stages": 2, "aux_loss": True}, "too few for deeplabv3plus_resnet50"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED, ids=str)
def test_refused_options_give_a_reason(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        segnets.create_model(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: backbones.resnet18(stem="bogus"), "stem='bogus': expected 'plain' or 'deep'"),
        (lambda: backbones.resnet18(downsample="avg"), "downsample='avg': expected one of 'conv'"),
        (lambda: backbones.resnet18(in_channels=0), "in_channels=0: expected an integer"),
        (lambda: backbones.mobilenet_v3_small(in_channels=0), "in_channels=0: expected an integer"),
        (
            lambda: backbones.resnet18(norm_layer=nn.BatchNorm2d, norm_eps=1e-3),
            "norm_layer is a function and sets eps itself",
        ),
        (lambda: backbones.resnet18(num_classes=-1), "num_classes=-1: expected a whole number of classes, or 0 for a"),
        (lambda: backbones.resnet18(num_classes=False), "num_classes=False: expected a whole number of classes"),
        (lambda: backbones.resnet18(num_classes=2.0), "num_classes=2.0: expected a whole number of classes"),
        (lambda: backbones.mobilenet_v3_small(num_classes=-3), "num_classes=-3: expected a whole number of classes"),
        (
            lambda: backbones.mobilenet_v3_small(num_classes=True),
            "num_classes=True: expected a whole number of classes",
        ),
        (lambda: backbones.mobilenet_v3_small(norm_eps=-1), "norm_eps=-1: expected a number above 0"),
        (lambda: backbones.resnet18(stride_in_1x1=True), "a BasicBlock has no 1x1 convolution"),
        (lambda: segnets.heads.DeepLabHead(8, 2, variant="x"), "variant='x': expected 'torchvision' or 'mmseg'"),
        (lambda: segnets.heads.PSPHead(8, 2, variant="x"), "variant='x': expected 'mmseg' or 'smp'"),
        (lambda: segnets.heads.DeepLabV3PlusHead(8, 8, 2, (1,), variant="x"), "variant='x': expected 'smp' or 'vainf'"),
        (lambda: segnets.SegmentationModel(nn.Identity(), nn.Identity(), norm_eval=WRONG), "norm_eval='x': expected"),
    ],
)
def test_the_parts_check_their_options_too(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_names_and_patterns_that_are_not_strings() -> None:
    with pytest.raises(ValueError, match=r"no model \['a'\]"):
        segnets.create_model(["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pattern=None: expected a string"):
        segnets.list_models(None)  # type: ignore[arg-type]
