"""The head of DeepLabV3+: ASPP at the end of the backbone, joined with features of a quarter of the image's size.

Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution", https://arxiv.org/abs/1802.02611
Behaves as segmentation_models_pytorch's DeepLabV3Plus, or, with `variant="vainf"`, as VainF/DeepLabV3Plus-Pytorch's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON
from segnets.heads.spec import ATROUS_RATES, HeadInput, HeadSpec, aspp_norm, check_variant
from segnets.layers import ASPP, NormLayer, SeparableConv, resize_bilinear

_LOW_CHANNELS = 48  # section 4.1 of the paper

_VARIANTS = ("smp", "vainf")


class DeepLabV3PlusHead(nn.Module):
    """{"low": (N, low_channels, H, W), "out": (N, in_channels, h, w)} -> (N, num_classes, H, W) logits.

    variant: "smp", separable 3x3 convolutions, one after ASPP and one after the joining; or "vainf", a plain 3x3 after
    the joining alone, which reads the finer features first.
    separable, pool_norm, dropout: of the `ASPP`. aspp_norm_layer: its norms, where they are not norm_layer's.
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
        low = self.project_low(features["low"])  # (N, 48, H, W)
        high = self.refine(self.aspp(features["out"]))  # (N, channels, h, w)
        high = resize_bilinear(high, [low.shape[2], low.shape[3]], self.align_corners)
        joined = [low, high] if self.low_first else [high, low]
        scores: Tensor = self.classify(self.fuse(torch.cat(joined, dim=1)))  # of (N, 48 + channels, H, W)
        return scores


def _defaults(variant: str, head_input: HeadInput) -> dict[str, JSON]:
    return {
        "head_channels": 256,
        "head_dropout": 0.5 if variant == "smp" else 0.1,
        "atrous_rates": list(ATROUS_RATES[head_input.output_stride]),
        "aspp_separable": variant == "smp",
        "pool_norm": True,
        "aspp_norm_eps": None,
    }


def _build(num_classes: int, head_input: HeadInput, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
    return DeepLabV3PlusHead(
        head_input.low_channels,
        head_input.channels,
        num_classes,
        options["atrous_rates"],
        channels=options["head_channels"],
        separable=options["aspp_separable"],
        pool_norm=options["pool_norm"],
        dropout=options["head_dropout"],
        norm_layer=norm_layer,
        aspp_norm_layer=aspp_norm(options, norm_layer),
        variant=options["head_variant"],
        align_corners=options["align_corners"],
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
