"""segmentation_models_pytorch: DeepLabV3, DeepLabV3+ and PSPNet on ResNets, and on timm's networks as `tu-` encoders.

It resizes with aligned corners. Its own encoders dilate the first block of a stage like the others, timm's do not.
A new architecture is one more entry in `_ARCHITECTURES`, a new encoder one in `_ENCODERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from segnets.card import ModelConfig
from segnets.registry import MODELS
from weights_tools.check.peers.base import Call, Choices, package, parts_of, without
from weights_tools.check.peers.timm import NAMES as TIMM_NAMES

_Arguments = dict[str, Any]

# Its own encoders; it has all others from timm.
_ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d")
# What timm adds to the name of a ResNet with this stem and these shortcuts.
_TIMM_LETTERS = {
    ("plain", "conv"): "",
    ("deep", "conv"): "c",
    ("deep", "average_dilated"): "d",
}
_FROM_TIMM = "encoder.model."  # what the names of a `tu-` encoder begin with


def _aspp(variant: str) -> Callable[[Choices, int], _Arguments]:
    def arguments(options: Choices, stride: int) -> _Arguments:
        options.need("head_variant", variant)
        options.need("pool_norm", True)
        return {
            "encoder_output_stride": stride,
            "decoder_channels": options.take("head_channels"),
            "decoder_atrous_rates": tuple(options.take("atrous_rates")),
            "decoder_aspp_separable": options.take("aspp_separable"),
        }

    return arguments


def _pspnet(options: Choices, stride: int) -> _Arguments:
    options.need("head_variant", "smp")
    options.need("pool_norm", False)
    return {"psp_out_channels": options.take("head_channels"), "upsampling": stride}


def _timm_name(options: Choices, backbone: str, dilated: bool) -> str:
    """Its ResNets with a deep stem have names of their own. Undilated, it pools in its shortcuts as others do."""
    pooled = options.take("downsample", "conv")
    kind = (options.take("stem", "plain"), pooled if dilated or pooled != "average" else "average_dilated")
    if kind not in _TIMM_LETTERS:
        raise options.refused("stem" if kind[0] == "plain" else "downsample")
    return TIMM_NAMES.get(backbone, backbone) + _TIMM_LETTERS[kind]


# The head's name here: the class, and its own arguments.
_ARCHITECTURES: dict[str, tuple[str, Callable[[Choices, int], _Arguments]]] = {
    "deeplabv3": ("DeepLabV3", _aspp("torchvision")),
    "deeplabv3plus": ("DeepLabV3Plus", _aspp("smp")),
    "pspnet": ("PSPNet", _pspnet),
}


class Smp:
    """See `weights_tools.check.peers.base.Project`."""

    name = "smp"
    title = "segmentation_models_pytorch"
    modules: tuple[str, ...] = ("segmentation_models_pytorch",)
    distribution = "segmentation-models-pytorch"
    install = "segmentation-models-pytorch"

    def call(self, config: ModelConfig, names: Collection[str]) -> Call:
        head, backbone = parts_of(config.name)
        from_timm = any(name.startswith(_FROM_TIMM) for name in names)
        if head not in _ARCHITECTURES or not (from_timm or backbone in _ENCODERS):
            raise without(self.title, config.name)
        options = Choices(self.title, config)
        architecture, own_arguments = _ARCHITECTURES[head]
        stages = options.take("backbone_stages", 4)
        if architecture == "PSPNet":  # which never dilates
            stride = 2 ** (stages + 1)
            options.need("output_stride", stride)
        else:
            stride = options.take("output_stride")
        dilated = stride < 2 ** (stages + 1)
        arguments = {
            "encoder_name": f"tu-{_timm_name(options, backbone, dilated)}" if from_timm else backbone,
            "encoder_depth": stages + 1,
            "classes": options.take("num_classes"),
            "in_channels": options.take("in_channels", 3),
            **own_arguments(options, stride),
        }
        options.need_plain_norms()
        for name in ("norm_eps", "head_norm_eps"):
            options.need(name, 1e-5)
        for name, own in _FIXED.items():
            options.need(name, own)
        options.need("first_block_dilation", "previous" if from_timm else "same")
        return options.call(f"segmentation_models_pytorch.{architecture}", arguments)

    def build(self, call: Call) -> nn.Module:
        architecture = getattr(package("segmentation_models_pytorch"), call.function.rsplit(".", 1)[1])
        module: nn.Module = architecture(encoder_weights=None, **call.arguments)
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        return {"out": module(x)}

    def step(self, config: ModelConfig) -> int:
        stride = MODELS[config.name].resolve(config.options)["output_stride"]
        assert isinstance(stride, int)
        return max(stride, 8)  # DeepLabV3+ reads a feature map of a quarter of the size, too


_FIXED: dict[str, Any] = {
    "aux_loss": False,
    "align_corners": True,
    "stem": "plain",
    "downsample": "conv",
    "stride_in_1x1": False,
    "basic_block_dilation": "both",
}
