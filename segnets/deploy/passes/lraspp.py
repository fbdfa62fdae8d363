"""Passes for MobileNetV3's gates and the head of LR-ASPP, which multiply feature maps by one number per channel.

The replacements move less memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnets.deploy.passes._graph import may_overwrite_input
from segnets.deploy.passes.context import Context, Outcome
from segnets.heads.lraspp import LRASPPHead
from segnets.layers import SqueezeExcitation, resize_bilinear


class GateInPlace(nn.Module):
    """A `SqueezeExcitation` that overwrites its input. (N, C, H, W) -> (N, C, H, W).

    No other module may read the input afterwards.
    """

    def __init__(self, gate: SqueezeExcitation) -> None:
        super().__init__()
        self.layers = nn.Sequential(gate.avgpool, gate.fc1, gate.activation, gate.fc2, gate.scale_activation)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel of `x` in place."""
        return x.mul_(self.layers(x))


class ClassifiedFirst(nn.Module):
    """An `LRASPPHead` that classifies its 128 channels before it resizes them. Its logits are float32.

    Resizing sums over pixels and classification over channels, so their order can change. There are fewer classes than
    channels to resize.
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
        """Compute logits (N, num_classes, H, W) at the size of the feature map "low"."""
        low = features["low"]
        high = features["high"]
        logits = self.high_classifier(self.cbr(high) * self.scale(high))  # (N, num_classes, h, w)
        # Always in float32: it costs nothing for few channels, and the logits keep their precision.
        logits = resize_bilinear(logits.to(torch.float32), [low.shape[2], low.shape[3]], self.align_corners)
        result: Tensor = logits + self.low_classifier(low)
        return result


def classify_before_resizing(network: nn.Module, _context: Context) -> Outcome:
    """Replace heads of LR-ASPP with heads that classify before they resize."""
    heads = [(name, module) for name, module in network.named_modules() if type(module) is LRASPPHead]
    for name, head in heads:
        network.set_submodule(name, ClassifiedFirst(head))
    return Outcome(network, {"heads": len(heads)})


def gate_in_place(network: nn.Module, context: Context) -> Outcome:
    """Let gates overwrite their input if no other module reads it afterwards."""
    gates: set[nn.Module] = {module for module in network.modules() if isinstance(module, SqueezeExcitation)}
    overwriting = may_overwrite_input(network, gates, context.channels)
    for name, module in list(network.named_modules()):
        if isinstance(module, SqueezeExcitation) and module in overwriting:
            network.set_submodule(name, GateInPlace(module))
    return Outcome(network, {"gates": len(overwriting)})
