"""Branches that average the feature map over a grid of cells and resize the result to the feature map.

Zhao et al. 2017, "Pyramid Scene Parsing Network", section 3.2, https://arxiv.org/abs/1612.01105
`PyramidPooling` behaves like mmsegmentation's PPM and segmentation_models_pytorch's PSPModule, which differ in width.
A `PooledBranch` with a single cell is the pooling branch of ASPP (`segnets.layers.aspp`).
"""

from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor, nn

from segnets.layers.norm import NormLayer, check_pooled_batch, needs_several_values
from segnets.layers.resize import resize_bilinear

# One step of a traced graph; see `segnets.model.check_batch`.
torch.fx.wrap("check_pooled_batch")


class PooledBranch(nn.Sequential):
    """Average pooling to bins x bins cells, a 1x1 convolution, and resizing to the input's size.

    (N, in_channels, H, W) -> (N, out_channels, H, W). In training, a batch norm over a single cell needs at least two
    images.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        bins: Cells per side.
        norm_layer: Factory that builds a norm layer for a given number of channels, or None for no norm; the
            convolution then has a bias.
        align_corners: See `segnets.layers.resize_bilinear`.
        name: Name of this branch in error messages.
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
        self.needs_several_values = needs_several_values(norm)
        self.align_corners = align_corners
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Pool, convolve and resize. Raise ValueError if batch norm would train on a single value per channel."""
        size = [x.shape[2], x.shape[3]]
        several = self.needs_several_values
        # Check again on each call: the norm may have been replaced, or processes may have joined.
        if not torch.jit.is_scripting():
            several = needs_several_values(self[2])
        if several and self.bins == 1 and self.training and self[2].training:
            x = check_pooled_batch(x, self.name)
        for layer in self:
            x = layer(x)  # (N, C, bins, bins) after the first layer
        return resize_bilinear(x, size, self.align_corners)


class PyramidPooling(nn.ModuleList):
    """Pooled branches with different numbers of cells, the levels of the pyramid.

    (N, in_channels, H, W) -> a list of feature maps (N, out_channels, H, W), one per level.

    Args:
        in_channels: Number of input channels.
        out_channels: Channels of every level.
        bins: Cells per side of each level.
        pool_norm: Whether the level with a single cell has a norm. In training, a batch norm there needs at least two
            images.
        norm_layer: Factory that builds a norm layer for a given number of channels.
        align_corners: See `segnets.layers.resize_bilinear`.
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
        """Return the feature maps of all levels, in the order of `bins`."""
        levels: list[Tensor] = []
        for level in self:
            levels.append(level(x))
        return levels
