"""Branches that see the whole image: averages over it, or over a grid of its parts, spread over the map again.

Zhao et al. 2017, "Pyramid Scene Parsing Network", section 3.2, https://arxiv.org/abs/1612.01105
`PyramidPooling` behaves as mmsegmentation's PPM and segmentation_models_pytorch's PSPModule, which differ in widths;
a `PooledBranch` of a single cell is the pooling branch of ASPP (`segnets.layers.aspp`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segnets.layers.norm import NormLayer, check_batch_of_pooled, needs_a_batch
from segnets.layers.resize import resize_bilinear


class PooledBranch(nn.Sequential):
    """Average the map into bins x bins cells, one 1x1 convolution, spread over the map again.

    (N, in_channels, H, W) -> (N, out_channels, H, W). In training a batch norm needs two images or more for one cell.
    norm_layer: None leaves the norm out; the convolution then has a bias.
    name: what a message calls this branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bins: int,
        *,
        norm_layer: NormLayer | None = nn.BatchNorm2d,
        align_corners: bool = False,
        name: str = "the branch that pools the whole image",
    ) -> None:
        norm = nn.Identity() if norm_layer is None else norm_layer(out_channels)
        super().__init__(
            nn.AdaptiveAvgPool2d(bins),
            nn.Conv2d(in_channels, out_channels, 1, bias=norm_layer is None),
            norm,
            nn.ReLU(),
        )
        self.bins = bins
        self.needs_a_batch = needs_a_batch(norm)
        self.align_corners = align_corners
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        size = [x.shape[2], x.shape[3]]
        needs = self.needs_a_batch
        if not torch.jit.is_scripting():  # the norm may have been exchanged, and processes joined
            needs = needs_a_batch(self[2])
        if needs and self.bins == 1 and self.training and self[2].training:
            check_batch_of_pooled(x, self.name)
        for layer in self:
            x = layer(x)  # (N, C, bins, bins) from the first layer on
        return resize_bilinear(x, size, self.align_corners)


class PyramidPooling(nn.ModuleList):
    """The levels of the pyramid: (N, in_channels, H, W) -> for each of `bins` a map (N, out_channels, H, W).

    pool_norm: whether the level of a single cell has a norm, which in training needs two images or more.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        *,
        pool_norm: bool = True,
        norm_layer: NormLayer = nn.BatchNorm2d,
        align_corners: bool = False,
    ) -> None:
        super().__init__(
            PooledBranch(
                in_channels,
                out_channels,
                count,
                norm_layer=norm_layer if pool_norm or count > 1 else None,
                align_corners=align_corners,
                name="the coarsest level of the pyramid",
            )
            for count in bins
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        levels: list[Tensor] = []
        for level in self:
            levels.append(level(x))
        return levels
