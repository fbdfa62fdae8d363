"""Head of DeepLabV3+: ASPP on the last feature map, fused with a feature map at a quarter of the image's size.

Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution", https://arxiv.org/abs/1802.02611
Behaves like segmentation_models_pytorch's DeepLabV3Plus or, with `variant="vainf"`, like VainF/DeepLabV3Plus-Pytorch's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON
from segnets.heads._aspp import aspp_arguments, aspp_defaults
from segnets.heads.spec import HeadInput, HeadSpec, check_variant
from segnets.layers import ASPP, NormLayer, SeparableConv, resize_bilinear

_LOW_CHANNELS = 48  # section 4.1 of the paper

_VARIANTS = ("smp", "vainf")


class DeepLabV3PlusHead(nn.Module):
    """Head of DeepLabV3+.

    {"low": (N, low_channels, H, W), "out": (N, in_channels, h, w)} -> logits (N, num_classes, H, W).

    Args:
        low_channels: Channels of the feature map "low".
        in_channels: Channels of the feature map "out".
        num_classes: Number of classes.
        atrous_rates: Dilations of ASPP.
        channels: Channels of ASPP and of the fused feature map.
        separable: Whether ASPP uses depthwise separable convolutions.
        pool_norm: Whether ASPP's pooling branch has a norm.
        dropout: Dropout probability in ASPP.
        norm_layer: Factory that builds a norm layer for a given number of channels.
        aspp_norm_layer: Factory of ASPP's norms; None means `norm_layer`.
        variant: "smp", with depthwise separable 3x3 convolutions after ASPP and after the concatenation; or "vainf",
            with a single plain 3x3 convolution after the concatenation, where "low" comes first.
        align_corners: See `segnets.layers.resize_bilinear`.

    Raises:
        ValueError: If `variant` is unknown.
    """

    reads_all_features = True
    last_layers = ("classify",)

    def __init__(
        self,
        low_channels: int,
        in_channels: int,
        num_classes: int,
        atrous_rates: Sequence[int],
        *,
        channels: int = 256,
        separable: bool = True,
        pool_norm: bool = True,
        dropout: float = 0.5,
        norm_layer: NormLayer = nn.BatchNorm2d,
        aspp_norm_layer: NormLayer | None = None,
        variant: str = "smp",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        check_variant(variant, _VARIANTS)
        self.align_corners = align_corners
        self.low_first = variant == "vainf"
        joined = _LOW_CHANNELS + channels
        self.aspp = ASPP(
            in_channels,
            atrous_rates,
            channels,
            separable=separable,
            pool_norm=pool_norm,
            norm_layer=aspp_norm_layer or norm_layer,
            dropout=nn.Dropout(dropout),
        )
        if variant == "smp":
            self.refine: nn.Module = nn.Sequential(SeparableConv(channels, channels), norm_layer(channels), nn.ReLU())
            fuse: nn.Module = SeparableConv(joined, channels)
        else:
            self.refine = nn.Identity()
            fuse = nn.Conv2d(joined, channels, 3, padding=1, bias=False)
        self.project_low = nn.Sequential(
            nn.Conv2d(low_channels, _LOW_CHANNELS, 1, bias=False), norm_layer(_LOW_CHANNELS), nn.ReLU()
        )
        self.fuse = nn.Sequential(fuse, norm_layer(channels), nn.ReLU())
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Compute logits at the size of the feature map "low"."""
        low = self.project_low(features["low"])  # (N, 48, H, W)
        high = self.refine(self.aspp(features["out"]))  # (N, channels, h, w)
        high = resize_bilinear(high, [low.shape[2], low.shape[3]], self.align_corners)
        joined = [low, high] if self.low_first else [high, low]
        fused = self.fuse(torch.cat(joined, dim=1))  # (N, channels, H, W) from (N, 48 + channels, H, W)
        logits: Tensor = self.classify(fused)
        return logits


def _defaults(variant: str, head_input: HeadInput) -> dict[str, JSON]:
    return {
        "head_channels": 256,
        "head_dropout": 0.5 if variant == "smp" else 0.1,
        **aspp_defaults(head_input.output_stride, separable=variant == "smp"),
    }


def _build(num_classes: int, head_input: HeadInput, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
    return DeepLabV3PlusHead(
        head_input.low_channels,
        head_input.channels,
        num_classes,
        options["atrous_rates"],
        norm_layer=norm_layer,
        variant=options["head_variant"],
        align_corners=options["align_corners"],
        **aspp_arguments(options, norm_layer),
    )


DEEPLABV3PLUS = HeadSpec(
    "deeplabv3plus",
    "DeepLabV3+, https://arxiv.org/abs/1802.02611",
    _VARIANTS,
    _defaults,
    _build,
    output_stride=16,
    low=lambda stages: stages.last_at(4),
)
