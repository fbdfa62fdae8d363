"""Head of PSPNet: the feature map concatenated with its averages over grids of 1, 2, 3 and 6 cells per side.

Zhao et al. 2017, "Pyramid Scene Parsing Network", https://arxiv.org/abs/1612.01105
Behaves like mmsegmentation's PSPHead (as in the paper) or, with `variant="smp"`, like segmentation_models_pytorch's
PSPNet.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON
from segnets.heads.spec import HeadInput, HeadSpec, check_variant
from segnets.layers import ConvNormAct, NormLayer, PyramidPooling

_BINS = (1, 2, 3, 6)

_VARIANTS = ("mmseg", "smp")


class PSPHead(nn.Module):
    """Head of PSPNet: (N, in_channels, H, W) -> logits (N, num_classes, H, W).

    Args:
        in_channels: Number of channels in the feature map.
        num_classes: Number of classes.
        channels: Channels of the fused feature map, and of each level of "mmseg".
        dropout: Dropout probability. Whole channels are dropped.
        pool_norm: Whether the level with a single cell has a norm.
        norm_layer: Factory that builds a norm layer for a given number of channels.
        variant: "mmseg", with levels of `channels` concatenated after the features, a 3x3 convolution and a 1x1
            classifier; or "smp", with levels of a quarter of `in_channels` concatenated before the features, a 1x1
            convolution and a 3x3 classifier.
        align_corners: See `segnets.layers.resize_bilinear`.

    Raises:
        ValueError: If `variant` is unknown.
    """

    last_layers = ("classify",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 512,
        dropout: float = 0.1,
        pool_norm: bool = True,
        norm_layer: NormLayer = nn.BatchNorm2d,
        variant: str = "mmseg",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        check_variant(variant, _VARIANTS)
        self.levels_first = variant == "smp"
        width = in_channels // len(_BINS) if self.levels_first else channels
        self.pyramid = PyramidPooling(
            in_channels, width, _BINS, pool_norm=pool_norm, norm_layer=norm_layer, align_corners=align_corners
        )
        self.fuse = ConvNormAct(
            in_channels + len(_BINS) * width,
            channels,
            kernel_size=1 if self.levels_first else 3,
            norm_layer=norm_layer,
        )
        self.dropout = nn.Dropout2d(dropout)
        kernel_size = 3 if self.levels_first else 1
        self.classify = nn.Conv2d(channels, num_classes, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits at the size of the feature map."""
        joined = self.pyramid(x)
        if self.levels_first:
            joined.append(x)
        else:
            joined.insert(0, x)
        fused = self.fuse(torch.cat(joined, dim=1))  # (N, channels, H, W)
        logits: Tensor = self.classify(self.dropout(fused))
        return logits


def _defaults(variant: str, head_input: HeadInput) -> dict[str, JSON]:
    smp = variant == "smp"
    return {
        "head_channels": 512 if smp else head_input.channels // 4,  # mmsegmentation: 512 on ResNet-50, 128 on ResNet-18
        "head_dropout": 0.2 if smp else 0.1,
        "pool_norm": not smp,
    }


def _build(num_classes: int, head_input: HeadInput, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
    return PSPHead(
        head_input.channels,
        num_classes,
        channels=options["head_channels"],
        dropout=options["head_dropout"],
        pool_norm=options["pool_norm"],
        norm_layer=norm_layer,
        variant=options["head_variant"],
        align_corners=options["align_corners"],
    )


PSPNET = HeadSpec("pspnet", "PSPNet, https://arxiv.org/abs/1612.01105", _VARIANTS, _defaults, _build)
