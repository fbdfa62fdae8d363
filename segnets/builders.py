"""One short function per published model, with random weights. Every published number of a network stands here.

Loading weights is a second step, a floor up: `segnets.weights` wraps these builders with `weights=`.
After `torch.manual_seed(s)` each draws the same initial weights as torchvision's builder of that name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from segnets.backbones import IntermediateLayerGetter, MobileNetV3, ResNet, mobilenet_v3_large, resnet50, resnet101
from segnets.card import ModelConfig
from segnets.heads import DeepLabHead, FCNHead, LRASPPHead
from segnets.model import SegmentationModel


class Builder(Protocol):
    """What every builder here takes.

    num_classes: classes, the background included.
    aux_loss: add an auxiliary classifier, whose scores come out under "aux".
    gradient_checkpointing: in training, compute the backbone's activations twice instead of keeping them.
    """

    __name__: str

    def __call__(
        self, *, num_classes: int = 21, aux_loss: bool = False, gradient_checkpointing: bool = False
    ) -> SegmentationModel: ...


def _check_options(num_classes: int, aux_loss: bool) -> None:
    if not isinstance(aux_loss, bool):
        raise ValueError(f"aux_loss={aux_loss!r}: expected True or False")
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes={num_classes!r}: expected a whole number of at least 1, the background included")


def _on_resnet(
    name: str,
    make_backbone: Callable[..., ResNet],
    head: Callable[[int, int], nn.Module],
    num_classes: int,
    aux_loss: bool,
    gradient_checkpointing: bool,
) -> SegmentationModel:
    """Output stride 8: the last two stages dilate. The auxiliary head reads the third, the classifier the fourth."""
    _check_options(num_classes, aux_loss)
    layers = {"layer4": "out"}
    if aux_loss:
        layers["layer3"] = "aux"
    backbone = IntermediateLayerGetter(make_backbone(replace_stride_with_dilation=[False, True, True]), layers)
    # The auxiliary head comes first: the order in which torchvision draws the initial weights.
    aux_classifier = FCNHead(1024, num_classes) if aux_loss else None
    return SegmentationModel(
        backbone,
        head(2048, num_classes),
        aux_classifier,
        config=ModelConfig(name, {"num_classes": num_classes, "aux_loss": aux_loss}),
        gradient_checkpointing=gradient_checkpointing,
    )


def fcn_resnet50(
    *, num_classes: int = 21, aux_loss: bool = False, gradient_checkpointing: bool = False
) -> SegmentationModel:
    """FCN on a dilated ResNet-50, output stride 8. https://arxiv.org/abs/1411.4038"""
    return _on_resnet("fcn_resnet50", resnet50, FCNHead, num_classes, aux_loss, gradient_checkpointing)


def fcn_resnet101(
    *, num_classes: int = 21, aux_loss: bool = False, gradient_checkpointing: bool = False
) -> SegmentationModel:
    """FCN on a dilated ResNet-101, output stride 8. https://arxiv.org/abs/1411.4038"""
    return _on_resnet("fcn_resnet101", resnet101, FCNHead, num_classes, aux_loss, gradient_checkpointing)


def deeplabv3_resnet50(
    *, num_classes: int = 21, aux_loss: bool = False, gradient_checkpointing: bool = False
) -> SegmentationModel:
    """DeepLabV3 on a dilated ResNet-50, output stride 8. https://arxiv.org/abs/1706.05587"""
    return _on_resnet("deeplabv3_resnet50", resnet50, DeepLabHead, num_classes, aux_loss, gradient_checkpointing)


def deeplabv3_resnet101(
    *, num_classes: int = 21, aux_loss: bool = False, gradient_checkpointing: bool = False
) -> SegmentationModel:
    """DeepLabV3 on a dilated ResNet-101, output stride 8. https://arxiv.org/abs/1706.05587"""
    return _on_resnet("deeplabv3_resnet101", resnet101, DeepLabHead, num_classes, aux_loss, gradient_checkpointing)


def deeplabv3_mobilenet_v3_large(
    *, num_classes: int = 21, aux_loss: bool = False, gradient_checkpointing: bool = False
) -> SegmentationModel:
    """DeepLabV3 on a dilated MobileNetV3-Large, output stride 16. https://arxiv.org/abs/1706.05587"""
    _check_options(num_classes, aux_loss)
    mobilenet: MobileNetV3 = mobilenet_v3_large(dilated=True)
    out, out_channels = mobilenet.stage(-1)  # C5
    aux, aux_channels = mobilenet.stage(-4)  # C2, an eighth of the image
    layers = {out: "out", aux: "aux"} if aux_loss else {out: "out"}
    aux_classifier = FCNHead(aux_channels, num_classes) if aux_loss else None
    return SegmentationModel(
        IntermediateLayerGetter(mobilenet.features, layers),
        DeepLabHead(out_channels, num_classes),
        aux_classifier,
        config=ModelConfig("deeplabv3_mobilenet_v3_large", {"num_classes": num_classes, "aux_loss": aux_loss}),
        gradient_checkpointing=gradient_checkpointing,
    )


def lraspp_mobilenet_v3_large(
    *, num_classes: int = 21, aux_loss: bool = False, gradient_checkpointing: bool = False
) -> SegmentationModel:
    """Lite R-ASPP on a dilated MobileNetV3-Large, output stride 16. https://arxiv.org/abs/1905.02244

    Raises NotImplementedError for `aux_loss=True`: this network has no auxiliary classifier.
    """
    _check_options(num_classes, aux_loss)
    if aux_loss:
        raise NotImplementedError("lraspp_mobilenet_v3_large has no auxiliary classifier; leave aux_loss out")
    mobilenet: MobileNetV3 = mobilenet_v3_large(dilated=True)
    low, low_channels = mobilenet.stage(-4)  # C2, an eighth of the image
    high, high_channels = mobilenet.stage(-1)  # C5, a sixteenth
    return SegmentationModel(
        IntermediateLayerGetter(mobilenet.features, {low: "low", high: "high"}),
        LRASPPHead(low_channels, high_channels, num_classes),
        config=ModelConfig("lraspp_mobilenet_v3_large", {"num_classes": num_classes, "aux_loss": False}),
        gradient_checkpointing=gradient_checkpointing,
    )
