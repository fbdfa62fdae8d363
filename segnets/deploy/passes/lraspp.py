"""MobileNetV3's gates and the head of LR-ASPP, which multiply large maps by a number for each channel.

Both compute the same function with less memory to go through; last bits differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnets.deploy.passes._graph import last_readers
from segnets.deploy.passes.context import Context, Outcome
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


def classify_before_resizing(network: nn.Module, _context: Context) -> Outcome:
    """Replace heads of LR-ASPP by ones that classify their features before they resize them."""
    heads = [(name, module) for name, module in network.named_modules() if type(module) is LRASPPHead]
    for name, head in heads:
        network.set_submodule(name, ClassifiedFirst(head))
    return Outcome(network, {"heads": len(heads)})


def gate_in_place(network: nn.Module, _context: Context) -> Outcome:
    """Let gates overwrite their input where no other module reads it afterwards."""
    gates: set[nn.Module] = {module for module in network.modules() if isinstance(module, SqueezeExcitation)}
    last = last_readers(network, gates)
    for name, module in list(network.named_modules()):
        if isinstance(module, SqueezeExcitation) and module in last:
            network.set_submodule(name, GateInPlace(module))
    return Outcome(network, {"gates": len(last)})
