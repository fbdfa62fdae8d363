"""The head of a fully convolutional network; it also serves as the auxiliary head of every model here.

Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation", https://arxiv.org/abs/1411.4038
Behaves as torchvision.models.segmentation.fcn.FCNHead.
"""

from __future__ import annotations

from torch import nn


class FCNHead(nn.Sequential):
    """3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout of 0.1, 1x1 convolution to the classes.

    (N, in_channels, H, W) -> (N, channels, H, W) logits.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        hidden = in_channels // 4
        super().__init__(
            nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(hidden, channels, 1),
        )
