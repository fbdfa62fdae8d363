"""Atrous spatial pyramid pooling (ASPP).

Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation", section 3.3,
https://arxiv.org/abs/1706.05587. Behaves as torchvision.models.segmentation.deeplabv3.ASPP.

Shapes: N batch, C channels, H W the feature map (an eighth of the image for every dilated ResNet here).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segnets.layers.resize import resize_bilinear


class ASPPConv(nn.Sequential):
    """One dilated 3x3 branch: (N, in_channels, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class ASPPPooling(nn.Sequential):
    """The image-level branch: the mean of each channel, one 1x1 convolution, spread over the map again.

    (N, in_channels, H, W) -> (N, out_channels, H, W). In training its batch norm needs two images or more.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        size = [x.shape[2], x.shape[3]]
        if self.training and x.shape[0] == 1 and self[2].training:
            raise ValueError(
                "Expected more than 1 value per channel when training, got a batch of one image: the pooling branch "
                "of ASPP has one value per channel and image, and batch norm can't normalise a single one. Train "
                "with a batch of 2 or more (DataLoader(drop_last=True) drops a last batch of one), or put this "
                "batch norm into eval mode."
            )
        for layer in self:
            x = layer(x)  # (N, C, 1, 1) from the first layer on
        return resize_bilinear(x, size)


class ASPP(nn.Module):
    """Look at the same features through several dilations and through the whole image, and fuse the views.

    in_channels: channels of the feature map.
    atrous_rates: one dilated 3x3 branch for each.
    out_channels: width of every branch and of the result.

    (N, in_channels, H, W) -> (N, out_channels, H, W). The branches are concatenated in the order
    1x1, the rates, pooling; dropout of 0.5 follows the fusing 1x1 convolution.
    """

    def __init__(self, in_channels: int, atrous_rates: Sequence[int], out_channels: int = 256) -> None:
        super().__init__()
        pointwise = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
        )
        dilated = [ASPPConv(in_channels, out_channels, rate) for rate in atrous_rates]
        self.convs = nn.ModuleList([pointwise, *dilated, ASPPPooling(in_channels, out_channels)])
        self.project = nn.Sequential(
            nn.Conv2d(len(self.convs) * out_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Dropout(0.5),
        )

    def forward(self, x: Tensor) -> Tensor:
        branches: list[Tensor] = []
        for conv in self.convs:
            branches.append(conv(x))
        fused: Tensor = self.project(torch.cat(branches, dim=1))  # (N, branches * out_channels, H, W) before
        return fused
