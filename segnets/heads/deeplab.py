"""The head of DeepLabV3: atrous spatial pyramid pooling, one 3x3 convolution, the classes.

Chen et al. 2017, https://arxiv.org/abs/1706.05587. Behaves as torchvision.models.segmentation.deeplabv3.DeepLabHead.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from segnets.layers import ASPP


class DeepLabHead(nn.Sequential):
    """(N, in_channels, H, W) -> (N, num_classes, H, W) logits.

    The rates 12, 24, 36 are the paper's for output stride 8; torchvision keeps them at stride 16 for MobileNetV3 too.
    """

    def __init__(self, in_channels: int, num_classes: int, atrous_rates: Sequence[int] = (12, 24, 36)) -> None:
        super().__init__(
            ASPP(in_channels, atrous_rates),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Conv2d(256, num_classes, 1),
        )
