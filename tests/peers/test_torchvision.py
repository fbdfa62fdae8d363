"""Parity with compositions of torchvision's parts: other norms and eps, any of its heads on any of its backbones.

`tests/models/test_parity.py` compares the networks that torchvision has builders for bit for bit. "VainF" stands for
the DeepLabV3+ of VainF/DeepLabV3Plus-Pytorch, which is on no package index. It is composed of torchvision's ASPP and
plain modules after the project's description, and is not that project itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.layers import NormLayer
from tests.oracle import torchvision
from tests.peers.compare import (
    NUM_CLASSES,
    Case,
    Change,
    State,
    Theirs,
    check,
    check_differs,
    randomised,
    with_norms,
    with_one_option_changed,
)
from tests.tiers import full_but

models = torchvision.models
segmentation = models.segmentation
GAINS = {"resnet18": 0.7, "mobilenet_v3_large": 0.88, "mobilenet_v3_small": 0.93}  # outputs of order 1 to 10
DILATE = {8: (False, True, True), 16: (False, False, True), 32: (False, False, False)}


def resnet(name: str, output_stride: int, layers: dict[str, str], norm_layer: NormLayer = nn.BatchNorm2d) -> nn.Module:
    dilate = DILATE[output_stride]
    network = models.get_model(name, weights=None, norm_layer=norm_layer, replace_stride_with_dilation=dilate)
    getter: nn.Module = models._utils.IntermediateLayerGetter(network, layers)
    return getter


def mobilenet(name: str, layers: dict[str, str], eps: float = 1e-3) -> nn.Module:
    rows, last = models.mobilenetv3._mobilenet_v3_conf(name, dilated=True)
    network = models.MobileNetV3(rows, last, norm_layer=partial(nn.BatchNorm2d, eps=eps, momentum=0.01))
    getter: nn.Module = models._utils.IntermediateLayerGetter(network.features, layers)
    return getter


class VainF(nn.Module):
    """DeepLabV3+ head: ASPP resized to 1/4 of the image, a projection of layer1 to 48 channels, a 3x3 convolution."""

    def __init__(self, channels: int, low_channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.aspp = ASPP(channels, rates)
        self.project_low = nn.Sequential(nn.Conv2d(low_channels, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.fuse = nn.Sequential(nn.Conv2d(304, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU())
        self.classify = nn.Conv2d(256, NUM_CLASSES, 1)

    def forward(self, features: State) -> Tensor:
        low = self.project_low(features["low"])
        high = F.interpolate(self.aspp(features["out"]), size=low.shape[2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.classify(self.fuse(torch.cat([low, high], dim=1)))
        return logits


class Scores(nn.Module):
    """Backbone and a classifier that reads all feature maps, with logits at the size of the image."""

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    def forward(self, x: Tensor) -> State:
        logits = self.classifier(self.backbone(x))
        return {"out": F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)}


class AlignedLRASPP(segmentation.lraspp.LRASPP):  # type: ignore[name-defined]
    """torchvision's LR-ASPP with align_corners=True in every resizing."""

    def forward(self, x: Tensor) -> State:
        features, head = self.backbone(x), self.classifier
        high = head.cbr(features["high"]) * head.scale(features["high"])
        high = F.interpolate(high, size=features["low"].shape[2:], mode="bilinear", align_corners=True)
        logits = head.low_classifier(features["low"]) + head.high_classifier(high)
        return {"out": F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=True)}


def without_pool_norm(head: Any) -> nn.Module:
    pooling = head[0].convs[-1]
    pooling[1] = nn.Conv2d(pooling[1].in_channels, pooling[1].out_channels, 1)
    pooling[2] = nn.Identity()
    module: nn.Module = head
    return module


def fcn(channels: int) -> nn.Module:
    head: nn.Module = segmentation.fcn.FCNHead(channels, NUM_CLASSES)
    return head


def deeplab(channels: int = 2048, rates: Sequence[int] = (12, 24, 36)) -> nn.Module:
    head: nn.Module = segmentation.deeplabv3.DeepLabHead(channels, NUM_CLASSES, rates)
    return head


def scores_of(module: nn.Module, gain: float) -> Theirs:
    randomised(module, gain=gain, within="backbone.")
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return Theirs(module, lambda x: dict(module(x)), state)


def whole(text: str, ours: str, build: Callable[[], nn.Module], **options: Any) -> Case:
    gain = GAINS.get(ours.partition("_")[2], 0.6)
    return Case("torchvision", text, ours, options, lambda: scores_of(build(), gain))


OUT = {"layer4": "out"}
NEAR = (3, 6, 9)  # our default rates at output stride 32
FROZEN = torchvision.ops.FrozenBatchNorm2d
ASPP = segmentation.deeplabv3.ASPP
EPS = partial(nn.BatchNorm2d, eps=1e-2)
GROUPS = partial(nn.GroupNorm, 32)


def model_of(kind: str, backbone: nn.Module, classifier: nn.Module, aux: nn.Module | None = None) -> nn.Module:
    parts = {"fcn": segmentation.FCN, "deeplabv3": segmentation.DeepLabV3}
    model: nn.Module = parts[kind](backbone, classifier, aux)
    return model


CASES = [
    whole(
        "resnet18(FrozenBatchNorm2d) + FCNHead",
        "fcn_resnet18",
        lambda: model_of("fcn", resnet("resnet18", 32, OUT, FROZEN), fcn(512)),
        output_stride=32,
        norm_layer="frozen",
    ),
    whole(
        "resnet18(FrozenBatchNorm2d) + DeepLabHead(3, 6, 9), frozen too",
        "deeplabv3_resnet18",
        lambda: model_of("deeplabv3", resnet("resnet18", 32, OUT, FROZEN), with_norms(deeplab(512, NEAR), FROZEN)),
        output_stride=32,
        norm_layer="frozen",
        head_norm_layer="frozen",
    ),
    whole(
        "convert_sync_batchnorm(fcn_resnet50 with aux)",
        "fcn_resnet50",
        lambda: nn.SyncBatchNorm.convert_sync_batchnorm(
            segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=NUM_CLASSES, aux_loss=True)
        ),
        aux_loss=True,
        norm_layer="sync",
    ),
    whole(
        "resnet18(GroupNorm) + FCNHead(GroupNorm)",
        "fcn_resnet18",
        lambda: model_of("fcn", resnet("resnet18", 32, OUT, GROUPS), with_norms(fcn(512), GROUPS)),
        output_stride=32,
        norm_layer="group",
    ),
    whole(
        "resnet18 + FCNHead(GroupNorm)",
        "fcn_resnet18",
        lambda: model_of("fcn", resnet("resnet18", 32, OUT), with_norms(fcn(512), GROUPS)),
        output_stride=32,
        head_norm_layer="group",
    ),
    whole(
        "resnet18(eps 1e-2) + DeepLabHead(3, 6, 9)",
        "deeplabv3_resnet18",
        lambda: model_of("deeplabv3", resnet("resnet18", 32, OUT, EPS), deeplab(512, NEAR)),
        output_stride=32,
        norm_eps=1e-2,
    ),
    whole(
        "resnet18 + DeepLabHead(3, 6, 9; eps 1e-2)",
        "deeplabv3_resnet18",
        lambda: model_of("deeplabv3", resnet("resnet18", 32, OUT), with_norms(deeplab(512, NEAR), EPS)),
        output_stride=32,
        head_norm_eps=1e-2,
    ),
    whole(
        "resnet18 + DeepLabHead(3, 6, 9; eps 1e-2, in ASPP 1e-5)",
        "deeplabv3_resnet18",
        lambda: model_of("deeplabv3", resnet("resnet18", 32, OUT), with_norms(deeplab(512, NEAR), EPS, but=ASPP)),
        output_stride=32,
        head_norm_eps=1e-2,
        aspp_norm_eps=1e-5,
    ),
    *(
        whole(
            f"mobilenet_v3_large(eps 1e-5) + DeepLabHead{rates}",
            "deeplabv3_mobilenet_v3_large",
            partial(
                lambda rates: model_of(
                    "deeplabv3", mobilenet("mobilenet_v3_large", {"16": "out"}, 1e-5), deeplab(960, rates)
                ),
                rates,
            ),
            norm_eps=1e-5,
            **options,
        )
        for rates, options in (((12, 24, 36), {}), ((6, 12, 18), {"atrous_rates": (6, 12, 18)}))
    ),
    whole(
        "mobilenet_v3_small, dilated, + FCNHead and aux",
        "fcn_mobilenet_v3_small",
        lambda: model_of("fcn", mobilenet("mobilenet_v3_small", {"2": "aux", "12": "out"}), fcn(576), fcn(24)),
        aux_loss=True,
    ),
    *(
        whole(
            f"_deeplabv3_mobilenetv3(mobilenet_v3_small{', dilated' if dilated else ''}, with aux)",
            "deeplabv3_mobilenet_v3_small",
            partial(
                lambda dilated: segmentation.deeplabv3._deeplabv3_mobilenetv3(
                    models.mobilenet_v3_small(dilated=dilated), NUM_CLASSES, True
                ),
                dilated,
            ),
            aux_loss=True,
            output_stride=16 if dilated else 32,
            atrous_rates=(12, 24, 36),
        )
        for dilated in (False, True)
    ),
    whole(
        "_lraspp_mobilenetv3(mobilenet_v3_small, dilated)",
        "lraspp_mobilenet_v3_small",
        lambda: segmentation.lraspp._lraspp_mobilenetv3(models.mobilenet_v3_small(dilated=True), NUM_CLASSES),
    ),
    whole(
        "mobilenet_v3_large, dilated, + LRASPPHead, aligned corners",
        "lraspp_mobilenet_v3_large",
        lambda: AlignedLRASPP(mobilenet("mobilenet_v3_large", {"4": "low", "16": "high"}), 40, 960, NUM_CLASSES, 64),
        head_channels=64,
        align_corners=True,
    ),
    whole(
        "resnet18 + LRASPPHead",
        "lraspp_resnet18",
        lambda: segmentation.LRASPP(resnet("resnet18", 32, {"layer2": "low", "layer4": "high"}), 128, 512, NUM_CLASSES),
        output_stride=32,
    ),
    whole(
        "resnext50_32x4d + DeepLabHead",
        "deeplabv3_resnext50_32x4d",
        lambda: model_of("deeplabv3", resnet("resnext50_32x4d", 8, OUT), deeplab()),
    ),
    whole(
        "resnet18 + DeepLabHead(2, 5)",
        "deeplabv3_resnet18",
        lambda: model_of("deeplabv3", resnet("resnet18", 32, OUT), deeplab(512, (2, 5))),
        output_stride=32,
        atrous_rates=(2, 5),
    ),
    whole(
        "resnet18 + DeepLabHead(3, 6, 9), a bias in place of the pooling branch's norm",
        "deeplabv3_resnet18",
        lambda: model_of("deeplabv3", resnet("resnet18", 32, OUT), without_pool_norm(deeplab(512, NEAR))),
        output_stride=32,
        pool_norm=False,
    ),
    *(
        whole(
            f"VainF (composed): resnet50, output stride {stride}, rates {rates}",
            "deeplabv3plus_resnet50",
            partial(
                lambda stride, rates: Scores(
                    resnet("resnet50", stride, {"layer1": "low", **OUT}), VainF(2048, 256, rates)
                ),
                stride,
                rates,
            ),
            output_stride=stride,
            head_variant="vainf",
        )
        for stride, rates in ((8, (12, 24, 36)), (16, (6, 12, 18)))
    ),
]


CHANGES = list(with_one_option_changed(CASES))


@pytest.mark.parametrize("case", full_but(CASES[::5], CASES), ids=str)
def test_torchvision(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("change", full_but(CHANGES[::5], CHANGES), ids=str)
def test_another_value_gives_other_outputs(change: Change) -> None:
    check_differs(change)
