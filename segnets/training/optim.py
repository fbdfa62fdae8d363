"""Optimizers with torchvision's parameter groups, which allow a higher auxiliary learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from segnets.errors import TrainingError
from segnets.training.config import TrainingConfig

_PARTS = ("backbone", "classifier", "aux_classifier")
_SECOND_BETA = 0.999  # torch's default


def parameter_groups(model: nn.Module, *, lr: float, aux_lr_factor: float = 10.0) -> list[dict[str, Any]]:
    """Split the trainable parameters of a network into the groups of torchvision's reference script.

    Args:
        model: `SegmentationModel` or any other module. Parameters outside `backbone`, `classifier` and `aux_classifier`
            form the last group.
        lr: Learning rate.
        aux_lr_factor: Factor on the learning rate of the auxiliary classifier.

    Returns:
        Parameter groups for a torch optimizer. Empty groups, for example of a frozen backbone, are left out.

    Raises:
        TrainingError: If no parameter requires gradients.
    """
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    groups = []
    for part in (*_PARTS, ""):
        own = [name for name in named if name.startswith(f"{part}." if part else "")]
        rate = lr * aux_lr_factor if part == "aux_classifier" else lr
        if own:
            groups.append({"params": [named.pop(name) for name in own], "lr": rate})
    if not groups:
        raise TrainingError("no parameter of the network requires gradients: nothing to train; unfreeze a part of it")
    return groups


def build_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """Build the optimizer that a configuration specifies.

    Each group records its learning rate before the schedule as `initial_lr`, as torch's schedulers do.

    Args:
        model: Network to train, on its device. Freeze parts of it first.
        config: Options `optimizer`, `lr`, `momentum`, `weight_decay` and `aux_lr_factor`.

    Raises:
        TrainingError: If no parameter requires gradients.
    """
    groups = parameter_groups(model, lr=config.lr, aux_lr_factor=config.aux_lr_factor)
    optimizer: Optimizer
    if config.optimizer == "adamw":
        betas = (config.momentum, _SECOND_BETA)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=betas, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def scale_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rate of every group to its initial value times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
