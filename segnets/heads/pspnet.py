"""The head of PSPNet: averages of the whole image, its halves, thirds and sixths beside the features themselves.

Zhao et al. 2017, "Pyramid Scene Parsing Network", https://arxiv.org/abs/1612.01105
Behaves as mmsegmentation's PSPHead, which is the paper's, or, with `variant="smp"`, as segmentation_models_pytorch's.
"""

from __future__ import annotations

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
    """(N, in_channels, H, W) -> (N, num_classes, H, W) logits. Dropout takes whole channels.

    variant: "mmseg": levels of `channels`, read after the features, fused by a 3x3 convolution, classified by a 1x1;
    or "smp": levels of a quarter of in_channels, read before the features, fused by a 1x1, classified by a 3x3.
    pool_norm: whether the coarsest level has a norm; SMP's has none.
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
        size = 3 if self.levels_first else 1
        self.classify = nn.Conv2d(channels, num_classes, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.pyramid(x)
        if self.levels_first:
            seen.append(x)
        else:
            seen.insert(0, x)
        fused = self.fuse(torch.cat(seen, dim=1))  # (N, channels, H, W)
        scores: Tensor = self.classify(self.dropout(fused))
        return scores


def _defaults(variant: str, head_input: HeadInput) -> dict[str, JSON]:
    smp = variant == "smp"
    # 512 on ResNet-50, and on ResNet-18 of mmsegmentation 128
    return {
        "head_channels": 512 if smp else head_input.channels // 4,
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
