"""Typed access to models, for what torch and our own types leave open."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from segnets.card import ModelCard, ModelConfig

M = TypeVar("M", bound=nn.Module)


def part(module: nn.Module, path: str) -> Any:
    """Return the submodule, parameter or buffer at a dotted path, such as `"layer4.1.conv2.weight"`."""
    return functools.reduce(getattr, path.split("."), module)


def config_of(model: nn.Module) -> ModelConfig:
    """Return the model's configuration, which must be present."""
    config = model.config
    assert isinstance(config, ModelConfig)
    return config


def options_of(model: nn.Module) -> Mapping[str, Any]:
    """Return the recorded options of a model."""
    return config_of(model).options


def card_of(model: nn.Module) -> ModelCard:
    """Return the model's card, which must be present."""
    card = model.card
    assert isinstance(card, ModelCard)
    return card


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter, which must be present."""
    assert parameter.grad is not None
    return parameter.grad


def in_memory_format(module: M, memory_format: torch.memory_format) -> M:
    """Convert a module's 4-D tensors in place; torch's type hints omit this overload of `Module.to`."""
    return module.to(memory_format=memory_format)  # type: ignore[call-overload,no-any-return]
