"""What may be overwritten in a network, found by running it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import segnets
from segnets.export.dataflow import last_readers
from segnets.export.optimize import optimize
from segnets.layers import InvertedResidual


def test_a_feature_that_the_head_reads_is_kept() -> None:
    model = optimize(segnets.create_model("lraspp_mobilenet_v3_large")).model
    blocks = {module for module in model.modules() if isinstance(module, InvertedResidual)}
    names = [name for name, module in model.named_modules() if module in blocks - last_readers(model, blocks)]
    assert names == ["backbone.5"]  # reads what block 4 gives, the head's "low"


class _Around(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(x) + x
        return result


def test_a_module_around_may_read_its_input_again() -> None:
    inner, outer, twice = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(outer), _Around(inner), twice, twice)
    assert last_readers(model, {inner, outer, twice}) == {outer}


def test_a_later_reader_keeps_it() -> None:
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lead, self.first, self.second = nn.ReLU(), first, second

        def forward(self, x: Tensor) -> Tensor:
            x = self.lead(x)
            result: Tensor = self.first(x) + self.second({"of": [x]}["of"][0])
            return result

    assert last_readers(Both(), {first, second}) == {second}
    assert torch.is_grad_enabled()
