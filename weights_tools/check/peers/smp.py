"""segmentation_models_pytorch: DeepLabV3, DeepLabV3+ and PSPNet on ResNets, and on timm's networks as `tu-` encoders.

SMP resizes with align_corners=True. Its own encoders also dilate the first block of a stage; timm's do not.
To add an architecture, add an entry to `_ARCHITECTURES`; to add an encoder, one to `_ENCODERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from segnets.card import ModelConfig
from segnets.registry import MODELS
from weights_tools.check.peers.base import PeerCall, PendingOptions, head_and_backbone, import_untyped, no_such_network
from weights_tools.check.peers.timm import NAMES as TIMM_NAMES

_Arguments = dict[str, Any]

# SMP's own encoders; all others are timm's.
_ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d")
# (stem, downsample) -> suffix of timm's name for the ResNet.
_TIMM_SUFFIXES = {
    ("plain", "conv"): "",
    ("deep", "conv"): "c",
    ("deep", "average_dilated"): "d",
}
_FROM_TIMM = "encoder.model."  # tensor name prefix of a `tu-` encoder


def _aspp(variant: str) -> Callable[[PendingOptions, int], _Arguments]:
    def arguments(options: PendingOptions, stride: int) -> _Arguments:
        options.require("head_variant", variant)
        options.require("pool_norm", True)
        return {
            "encoder_output_stride": stride,
            "decoder_channels": options.take("head_channels"),
            "decoder_atrous_rates": tuple(options.take("atrous_rates")),
            "decoder_aspp_separable": options.take("aspp_separable"),
        }

    return arguments


def _pspnet(options: PendingOptions, stride: int) -> _Arguments:
    options.require("head_variant", "smp")
    options.require("pool_norm", False)
    return {"psp_out_channels": options.take("head_channels"), "upsampling": stride}


def _timm_name(options: PendingOptions, backbone: str, dilated: bool) -> str:
    """Return timm's name of a backbone. A ResNet with a deep stem has a different name."""
    # Without dilation, "average" and "average_dilated" are the same.
    pooled = options.take("downsample", "conv")
    variant = (options.take("stem", "plain"), pooled if dilated or pooled != "average" else "average_dilated")
    if variant not in _TIMM_SUFFIXES:
        raise options.unsupported("stem" if variant[0] == "plain" else "downsample")
    return TIMM_NAMES.get(backbone, backbone) + _TIMM_SUFFIXES[variant]


# Our name of the head -> SMP's class, and a function that returns the arguments of this class only.
_ARCHITECTURES: dict[str, tuple[str, Callable[[PendingOptions, int], _Arguments]]] = {
    "deeplabv3": ("DeepLabV3", _aspp("torchvision")),
    "deeplabv3plus": ("DeepLabV3Plus", _aspp("smp")),
    "pspnet": ("PSPNet", _pspnet),
}


class Smp:
    """segmentation_models_pytorch as a peer; see `Peer`."""

    name = "smp"
    title = "segmentation_models_pytorch"
    modules: tuple[str, ...] = ("segmentation_models_pytorch",)
    distribution = "segmentation-models-pytorch"
    install = "segmentation-models-pytorch"
    without_effect: tuple[str, ...] = (
        "classification_head.",
    )  # of `aux_params`: classes of the whole image, in addition to the mask

    def call(self, config: ModelConfig, names: Collection[str]) -> PeerCall:
        """Describe the call; see `Peer.call`."""
        head, backbone = head_and_backbone(config.name)
        from_timm = any(name.startswith(_FROM_TIMM) for name in names)
        if head not in _ARCHITECTURES or not (from_timm or backbone in _ENCODERS):
            raise no_such_network(self.title, config.name)
        options = PendingOptions(self.title, config)
        architecture, own_arguments = _ARCHITECTURES[head]
        stages = options.take("backbone_stages", 4)
        if architecture == "PSPNet":  # SMP's PSPNet never dilates
            stride = 2 ** (stages + 1)
            options.require("output_stride", stride)
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
        options.require_batch_norms()
        for name in ("norm_eps", "head_norm_eps"):
            options.require(name, 1e-5)
        for name, own in _FIXED.items():
            options.require(name, own)
        options.require("first_block_dilation", "previous" if from_timm else "same")
        return options.into_call(f"segmentation_models_pytorch.{architecture}", arguments)

    def build(self, call: PeerCall) -> nn.Module:
        """Build the network; see `Peer.build`."""
        architecture = getattr(import_untyped("segmentation_models_pytorch"), call.function.rsplit(".", 1)[1])
        module: nn.Module = architecture(encoder_weights=None, **call.arguments)
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Run the network; see `Peer.run`."""
        return {"out": module(x)}

    def size_multiple(self, config: ModelConfig) -> int:
        """Return the output stride, at least 8."""
        stride = MODELS[config.name].resolve(config.options)["output_stride"]
        assert isinstance(stride, int)
        return max(stride, 8)  # DeepLabV3+ also reads the feature map at 1/4 of the size


_FIXED: dict[str, Any] = {
    "aux_loss": False,
    "align_corners": True,
    "stem": "plain",
    "downsample": "conv",
    "stride_in_1x1": False,
    "basic_block_dilation": "both",
}
