"""MobileNetV3's gates and the head of LR-ASPP, which multiply large maps by a number for each channel.

Both compute the same function with less memory to go through; last bits differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnets.heads.lraspp import LRASPPHead
from segnets.layers import SqueezeExcitation, resize_bilinear


class GateInPlace(nn.Module):
    """As SqueezeExcitation, overwriting its input, which nobody else may read. (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, gate: SqueezeExcitation) -> None:
        super().__init__()
        self.layers = nn.Sequential(gate.avgpool, gate.fc1, gate.activation, gate.fc2, gate.scale_activation)

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(self.layers(x))


class ClassifiedFirst(nn.Module):
    """As LRASPPHead, which brings its 128 channels to a larger size and classifies them there.

    One sums pixels and the other channels, so that they can change places; classes are fewer than channels. Scores are
    float32.
    """

    reads_all_features = True

    def __init__(self, head: LRASPPHead) -> None:
        super().__init__()
        self.align_corners = head.align_corners
        self.cbr = head.cbr
        self.scale = head.scale
        self.low_classifier = head.low_classifier
        self.high_classifier = head.high_classifier

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        low = features["low"]
        high = features["high"]
        scores = self.high_classifier(self.cbr(high) * self.scale(high))  # (N, num_classes, h, w)
        # In float32, whatever the rest computes in: of few channels it costs nothing, and scores keep their digits.
        scores = resize_bilinear(scores.to(torch.float32), [low.shape[2], low.shape[3]], self.align_corners)
        result: Tensor = scores + self.low_classifier(low)
        return result
