"""All heads on all backbones, and the networks of a default test run.

A default run covers each head on the lightest MobileNetV3, and one head on each other backbone, also a new one. The
heavy backbones and the other combinations are marked `full`: they consist of the same parts and take long.
"""

from __future__ import annotations

from itertools import cycle

import torch
from torch import nn

import segnets
from segnets.registry import BACKBONES, HEADS, MODELS, build_described
from tests.oracle import randomise_

NAMES = segnets.list_models()
HEAD_NAMES = [head.name for head in HEADS]
_LIGHT = "mobilenet_v3_small"
_HEAVY = ["resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"]
_OTHERS = [name for name in BACKBONES if name not in {_LIGHT, *_HEAVY}]

EVERYDAY = {
    *(f"{head}_{_LIGHT}" for head in HEAD_NAMES),
    *(f"{head}_{backbone}" for head, backbone in zip(cycle(HEAD_NAMES), _OTHERS)),
}


def on(*backbones: str) -> set[str]:
    """Return the names of every head on these backbones."""
    return {f"{head}_{backbone}" for head in HEAD_NAMES for backbone in backbones}


def random_network(name: str, **options: object) -> nn.Module:
    """Return a network in eval mode, with an auxiliary classifier if it can have one; all tensors are different."""
    if MODELS[name].head.auxiliary:
        options["aux_loss"] = True
    # Drawing initial values would take longer than everything else, and they are replaced at once.
    network = build_described(name, {"num_classes": 3, **options}).to_empty(device="cpu")
    randomise_(network, seed=sum(map(ord, name)))
    return network.eval()


def narrow_head(name: str) -> dict[str, object]:
    """Return the options of a network that give its head few channels, if it can have them."""
    return {"head_channels": 32} if "head_channels" in MODELS[name].applicable({}) else {}


def images(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Check that outputs are finite and bit-identical."""
    assert list(ours) == list(theirs)
    for name in theirs:
        assert theirs[name].isfinite().all(), name
        assert torch.equal(ours[name], theirs[name]), f"{name}: {(ours[name] - theirs[name]).abs().max()}"
