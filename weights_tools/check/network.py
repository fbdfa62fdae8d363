"""Build a segnets network from converted tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from segnets.card import ModelConfig
from segnets.registry import build_described
from segnets.weights.fitting import fit


def build_network(config: ModelConfig, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the network in eval mode with these tensors, which are not copied.

    Raises:
        WeightsError: If segnets can't build the network or the tensors do not fit it.
    """
    model = build_described(config.name, dict(config.options))
    fit(model, tensors, where="the converted network", assign=True)
    return model.eval()
