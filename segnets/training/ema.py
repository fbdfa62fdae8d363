"""Exponential moving average of the weights of a network.

Tarvainen and Valpola 2017, "Mean teachers are better role models", https://arxiv.org/abs/1703.01780
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class ExponentialAverage:
    """Exponential moving average of the parameters and buffers of a network.

    The decay of update n is at most (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage. Without this
    bound, the average after a short run would still be close to the initial weights.

    Args:
        model: Network to average, on its device. It is copied.
        decay: Weight of the previous average in each update, 0 <= decay < 1.

    Attributes:
        module: Network with the averaged weights, in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)
        self._averaged.requires_grad_(False)
        self._averaged.eval()
        self._model = model

    @property
    def module(self) -> nn.Module:
        """Network with the averaged weights, in eval mode."""
        return self._averaged.module

    def update(self) -> None:
        """Update the average with the current weights."""
        self._averaged.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and the number of updates, as tensors."""
        return {"model": dict(self.module.state_dict()), "updates": self._averaged.n_averaged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.module.load_state_dict(state["model"])
        self._averaged.n_averaged.copy_(state["updates"])

    @torch.no_grad()
    def _average(self, averages: Any, values: Any, _updates: Tensor | int) -> None:
        number = int(self._averaged.n_averaged)  # on the CPU, unlike the argument
        decay = min(self._decay, (1 + number) / (10 + number))
        if torch.is_floating_point(averages[0]):
            torch._foreach_lerp_(averages, values, 1 - decay)
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)  # counters of batch norms
