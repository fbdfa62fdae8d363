"""Atrous spatial pyramid pooling (ASPP).

Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation", section 3.3,
https://arxiv.org/abs/1706.05587. Behaves like torchvision.models.segmentation.deeplabv3.ASPP.

Shapes: N batch, C channels, H W the feature map (input / 8 or input / 16).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segnets.layers.conv_norm_act import SeparableConv
from segnets.layers.norm import NormLayer
from segnets.layers.pooling import PooledBranch


class ASPPConv(nn.Sequential):
    """Dilated 3x3 branch of ASPP: (N, in_channels, H, W) -> (N, out_channels, H, W).

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        dilation: Dilation of the convolution, which keeps the size.
        separable: Whether to use a depthwise separable convolution.
        norm_layer: Factory that builds a norm layer for a given number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilation: int,
        *,
        separable: bool = False,
        norm_layer: NormLayer = nn.BatchNorm2d,
    ) -> None:
        convolution: nn.Module
        if separable:
            convolution = SeparableConv(in_channels, out_channels, dilation=dilation)
        else:
            convolution = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
        super().__init__(convolution, norm_layer(out_channels), nn.ReLU())


class ASPPPooling(PooledBranch):
    """Image-level branch of ASPP: global average pooling, a 1x1 convolution, and resizing to the input's size.

    (N, in_channels, H, W) -> (N, out_channels, H, W). In training, a batch norm here needs at least two images.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        norm_layer: Factory that builds a norm layer for a given number of channels, or None for no norm; the
            convolution then has a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_layer: NormLayer | None = nn.BatchNorm2d) -> None:
        super().__init__(in_channels, out_channels, 1, norm_layer=norm_layer, name="the pooling branch of ASPP")


class ASPP(nn.Module):
    """Parallel convolutions with different dilations and an image-level branch, fused by one convolution.

    (N, in_channels, H, W) -> (N, out_channels, H, W). The branches are concatenated in the order 1x1, dilated, pooling,
    or with the pooling branch first.

    Args:
        in_channels: Number of channels in the feature map.
        atrous_rates: Dilations, one per 3x3 branch.
        out_channels: Channels of every branch and of the output.
        separable: Whether the dilated branches use depthwise separable convolutions.
        pool_norm: Whether the pooling branch has a norm.
        norm_layer: Factory that builds a norm layer for a given number of channels.
        fuse_kernel: Kernel size of the fusing convolution: 1 (torchvision) or 3 (mmsegmentation).
        pool_first: Whether the pooling branch is concatenated first (mmsegmentation) instead of last (torchvision).
        dropout: Dropout after the fusing convolution; None means `nn.Dropout(0.5)`.
    """

    def __init__(
        self,
        in_channels: int,
        atrous_rates: Sequence[int],
        out_channels: int = 256,
        *,
        separable: bool = False,
        pool_norm: bool = True,
        norm_layer: NormLayer = nn.BatchNorm2d,
        fuse_kernel: int = 1,
        pool_first: bool = False,
        dropout: nn.Module | None = None,
    ) -> None:
        super().__init__()
        pointwise = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), norm_layer(out_channels), nn.ReLU()
        )
        dilated = [
            ASPPConv(in_channels, out_channels, rate, separable=separable, norm_layer=norm_layer)
            for rate in atrous_rates
        ]
        pooling = ASPPPooling(in_channels, out_channels, norm_layer if pool_norm else None)
        self.convs = nn.ModuleList([pointwise, *dilated, pooling])
        self.project = nn.Sequential(
            nn.Conv2d(len(self.convs) * out_channels, out_channels, fuse_kernel, padding=fuse_kernel // 2, bias=False),
            norm_layer(out_channels),
            nn.ReLU(),
            nn.Dropout(0.5) if dropout is None else dropout,
        )
        self.pool_first = pool_first

    def forward(self, x: Tensor) -> Tensor:
        """Apply all branches and fuse them."""
        branches: list[Tensor] = []
        for conv in self.convs:
            branches.append(conv(x))
        if self.pool_first:
            branches = branches[-1:] + branches[:-1]
        fused: Tensor = self.project(torch.cat(branches, dim=1))  # input (N, branches * out_channels, H, W)
        return fused
