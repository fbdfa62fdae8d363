"""Head of a fully convolutional network, also used as the auxiliary classifier of all networks.

Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation", https://arxiv.org/abs/1411.4038
`FCNHead` behaves like torchvision.models.segmentation.fcn.FCNHead, `FCNConcatHead` like mmsegmentation's FCNHead with
default arguments.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON
from segnets.heads.spec import HeadInput, HeadSpec
from segnets.layers import ConvNormAct, NormLayer


class FCNHead(nn.Sequential):
    """3x3 convolution, norm, ReLU, dropout and a 1x1 classifier.

    (N, in_channels, H, W) -> logits (N, channels, H, W).

    Args:
        in_channels: Number of channels in the feature map.
        channels: Number of classes.
        hidden: Channels of the 3x3 convolution; None means a quarter of `in_channels`.
        dropout: Dropout probability.
        norm_layer: Factory that builds a norm layer for a given number of channels.
    """

    last_layers = ("4",)

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        hidden: int | None = None,
        dropout: float = 0.1,
        norm_layer: NormLayer = nn.BatchNorm2d,
    ) -> None:
        hidden = in_channels // 4 if hidden is None else hidden
        super().__init__(
            nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False),
            norm_layer(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, channels, 1),
        )


class FCNConcatHead(nn.Module):
    """Two 3x3 convolutions, a third one over their output concatenated with the input, and a 1x1 classifier.

    (N, in_channels, H, W) -> logits (N, num_classes, H, W).

    Args:
        in_channels: Number of channels in the feature map.
        num_classes: Number of classes.
        hidden: Channels of the 3x3 convolutions.
        dropout: Dropout probability. Whole channels are dropped.
        norm_layer: Factory that builds a norm layer for a given number of channels.
    """

    last_layers = ("classify",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        hidden: int,
        dropout: float = 0.1,
        norm_layer: NormLayer = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNormAct(in_channels, hidden, kernel_size=3, norm_layer=norm_layer),
            ConvNormAct(hidden, hidden, kernel_size=3, norm_layer=norm_layer),
        )
        self.fuse = ConvNormAct(in_channels + hidden, hidden, kernel_size=3, norm_layer=norm_layer)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(hidden, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits at the size of the feature map."""
        joined = torch.cat([x, self.convs(x)], dim=1)  # (N, in_channels + hidden, H, W)
        logits: Tensor = self.classify(self.dropout(self.fuse(joined)))
        return logits


def _defaults(_variant: str, head_input: HeadInput) -> dict[str, JSON]:
    return {"head_channels": head_input.channels // 4, "head_dropout": 0.1}


def _build(num_classes: int, head_input: HeadInput, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
    head = FCNConcatHead if options["head_variant"] == "mmseg" else FCNHead
    return head(
        head_input.channels,
        num_classes,
        hidden=options["head_channels"],
        dropout=options["head_dropout"],
        norm_layer=norm_layer,
    )


FCN = HeadSpec("fcn", "FCN, https://arxiv.org/abs/1411.4038", ("torchvision", "mmseg"), _defaults, _build)
