"""torchvision as the reference of the tests, and random weights in which every tensor is different."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from segnets.builders import PUBLISHED
from segnets.registry import BACKBONES, _WithoutInitialValues
from segnets.torchvision_compat import torchvision
from tests.initial_values import fill_normal

__all__ = ["CLASSIFIERS", "NAMES", "randomise_", "randomised", "torchvision"]

Network = TypeVar("Network", bound=nn.Module)

# Networks that torchvision has as well.
NAMES = [builder.name for builder in PUBLISHED]
CLASSIFIERS = [name for name in BACKBONES if name in torchvision.models.list_models()]


def randomise_(model: nn.Module, seed: int = 0) -> None:
    """Fill every parameter and buffer with different random values.

    In a new network all batch norms are equal, so swapping two of them would go unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("num_batches_tracked"):
            tensor.random_(1, 1000, generator=generator)
        elif tensor.ndim == 1:
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.1, generator=generator)
        elif tensor.is_floating_point():
            fan_in = tensor[0].numel()
            fill_normal(tensor, (2.0 / fan_in) ** 0.5, generator)


def randomised(build: Callable[..., Network], *arguments: object, seed: int = 0, **options: object) -> Network:
    """Build a network and fill it as `randomise_` does, without drawing initial values first."""
    with torch.device("meta"), _WithoutInitialValues():
        model = build(*arguments, **options)
    model.to_empty(device="cpu")
    randomise_(model, seed)
    return model
