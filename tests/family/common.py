"""All heads on all backbones, and which of these networks every run of the tests takes.

The everyday ones are each head on the lightest ResNet and MobileNetV3, and each other backbone of up to fifty million
parameters below one head. The rest of the product is marked `full`: the parts are the same, and take their time.
"""

from __future__ import annotations

from itertools import cycle

import torch
from torch import nn

import segnets
from segnets.registry import HEADS, build_described
from tests.oracle import randomise_

NAMES = segnets.list_models()
HEAD_NAMES = [head.name for head in HEADS]
_LIGHT = ["mobilenet_v3_small", "resnet18"]
_OTHERS = ["mobilenet_v3_large", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2"]

EVERYDAY = {
    *(f"{head}_{backbone}" for head in HEAD_NAMES for backbone in _LIGHT),
    *(f"{head}_{backbone}" for head, backbone in zip(cycle(HEAD_NAMES), _OTHERS)),
}


def on(*backbones: str) -> set[str]:
    """The names of every head on these backbones."""
    return {f"{head}_{backbone}" for head in HEAD_NAMES for backbone in backbones}


def random_network(name: str, **options: object) -> nn.Module:
    """In eval mode, with an auxiliary classifier where there can be one, and every tensor unlike every other."""
    if not name.startswith("lraspp"):
        options["aux_loss"] = True
    # Built without initial values, which would take longer than everything else and are replaced at once.
    network = build_described(name, {"num_classes": 3, **options}).to_empty(device="cpu")
    randomise_(network, seed=sum(map(ord, name)))
    return network.eval()


def images(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Bit for bit, and nothing infinite that would be equal to everything infinite."""
    assert list(ours) == list(theirs)
    for name in theirs:
        assert theirs[name].isfinite().all(), name
        assert torch.equal(ours[name], theirs[name]), f"{name}: {(ours[name] - theirs[name]).abs().max()}"
