"""Head of Lite R-ASPP: gated features of the last feature map, added to those of a finer feature map.

Howard et al. 2019, "Searching for MobileNetV3", section 6.4, https://arxiv.org/abs/1905.02244
Behaves like torchvision.models.segmentation.lraspp.LRASPPHead.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from segnets.card import JSON
from segnets.heads.spec import HeadInput, HeadSpec
from segnets.layers import NormLayer, resize_bilinear


class LRASPPHead(nn.Module):
    """Head of Lite R-ASPP.

    {"low": (N, low_channels, H, W), "high": (N, high_channels, h, w)} -> logits (N, num_classes, H, W).

    Args:
        low_channels: Channels of the feature map "low".
        high_channels: Channels of the feature map "high".
        num_classes: Number of classes.
        inter_channels: Channels of the gated features.
        norm_layer: Factory that builds a norm layer for a given number of channels.
        align_corners: See `segnets.layers.resize_bilinear`.
    """

    reads_all_features = True
    last_layers = ("low_classifier", "high_classifier")

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        num_classes: int,
        inter_channels: int = 128,
        *,
        norm_layer: NormLayer = nn.BatchNorm2d,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.cbr = nn.Sequential(
            nn.Conv2d(high_channels, inter_channels, 1, bias=False),
            norm_layer(inter_channels),
            nn.ReLU(inplace=True),
        )
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(high_channels, inter_channels, 1, bias=False),
            nn.Sigmoid(),
        )
        self.low_classifier = nn.Conv2d(low_channels, num_classes, 1)
        self.high_classifier = nn.Conv2d(inter_channels, num_classes, 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Compute logits at the size of the feature map "low"."""
        low = features["low"]
        high = features["high"]
        x = self.cbr(high) * self.scale(high)  # (N, inter_channels, h, w)
        x = resize_bilinear(x, [low.shape[2], low.shape[3]], self.align_corners)  # (N, inter_channels, H, W)
        logits: Tensor = self.low_classifier(low) + self.high_classifier(x)
        return logits


def _defaults(_variant: str, _site: HeadInput) -> dict[str, JSON]:
    return {"head_channels": 128}


def _build(num_classes: int, head_input: HeadInput, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
    return LRASPPHead(
        head_input.low_channels,
        head_input.channels,
        num_classes,
        options["head_channels"],
        norm_layer=norm_layer,
        align_corners=options["align_corners"],
    )


LRASPP = HeadSpec(
    "lraspp",
    "Lite R-ASPP, https://arxiv.org/abs/1905.02244",
    ("torchvision",),
    _defaults,
    _build,
    output_stride=16,
    low=lambda stages: stages.first_at(8),
    last_name="high",
    auxiliary=False,
)
