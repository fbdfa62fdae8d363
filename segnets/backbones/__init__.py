"""Backbones, which map an image to named feature maps. Each one is also an image classifier."""

from segnets.backbones._resnet_blocks import BasicBlock, Bottleneck
from segnets.backbones.intermediate_layer_getter import IntermediateLayerGetter, forward_checkpointed
from segnets.backbones.mobilenet_v3 import MobileNetV3, MobileNetV3Spec, mobilenet_v3_large, mobilenet_v3_small
from segnets.backbones.resnet import (
    ResNet,
    ResNetSpec,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from segnets.backbones.spec import BackboneSpec, Stage, Stages

__all__ = [
    "BackboneSpec",
    "BasicBlock",
    "Bottleneck",
    "IntermediateLayerGetter",
    "MobileNetV3",
    "MobileNetV3Spec",
    "ResNet",
    "ResNetSpec",
    "Stage",
    "Stages",
    "forward_checkpointed",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
