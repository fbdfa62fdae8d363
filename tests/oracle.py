"""torchvision as the oracle of the tests, and weights in which every tensor differs from every other."""

from __future__ import annotations

import torch
from torch import nn

from segnets.builders import PUBLISHED
from segnets.torchvision_compat import torchvision

__all__ = ["NAMES", "randomise_", "torchvision"]

# The networks that torchvision has too.
NAMES = [builder.name for builder in PUBLISHED]


def randomise_(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter and every buffer values of its own.

    A fresh network's batch norms are all alike: a swapped pair would change nothing.
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
            tensor.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
