"""Pairs of our network and torchvision's with the same random weights."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import nn

import segnets
from tests.oracle import NAMES, randomise_, torchvision

__all__ = [
    "DEEP_IN_FULL",
    "NAMES",
    "Pair",
    "assert_same_output",
    "images",
    "is_deep",
    "random_pair",
    "torchvision_model",
    "with_aux",
]


def is_deep(name: str) -> bool:
    """Return whether the network is on a ResNet-101, which only has more blocks than ResNet-50."""
    return name.endswith("resnet101")


# All networks as parameters of a test, those on a ResNet-101 marked `full`.
DEEP_IN_FULL = [pytest.param(name, marks=pytest.mark.full if is_deep(name) else ()) for name in NAMES]


class Pair(NamedTuple):
    ours: nn.Module
    theirs: nn.Module


def with_aux(name: str) -> bool:
    return not name.startswith("lraspp")


def torchvision_model(name: str, **options: object) -> nn.Module:
    if not with_aux(name):
        options.pop("aux_loss", None)
    builder = getattr(torchvision.models.segmentation, name)
    model: nn.Module = builder(weights=None, weights_backbone=None, **options)
    return model


@cache  # about 3 GB for all pairs
def random_pair(name: str, *, aux_loss: bool, num_classes: int = 7) -> Pair:
    """Return a pair in eval mode. Tests share it, so they must copy a model before changing it."""
    with torch.device("meta"):  # drawing initial values would take longer, and all are replaced at once
        theirs = torchvision_model(name, num_classes=num_classes, aux_loss=aux_loss)
        ours = segnets.create_model(name, num_classes=num_classes, aux_loss=aux_loss)
    theirs, ours = theirs.to_empty(device="cpu"), ours.to_empty(device="cpu")
    randomise_(theirs, seed=sum(map(ord, name)))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return Pair(ours.eval(), theirs.eval())


def images(batch: int, height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width, generator=generator).to(dtype)


def assert_same_output(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert type(ours) is type(theirs)
    assert list(ours) == list(theirs)
    for name in theirs:
        assert ours[name].isfinite().all(), name
        assert torch.equal(ours[name], theirs[name]), f"{name}: {(ours[name] - theirs[name]).abs().max()}"
