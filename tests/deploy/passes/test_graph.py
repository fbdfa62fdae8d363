"""Analyses of a network's data flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets.deploy.passes._graph import convolution_input_shapes, may_overwrite_input
from segnets.errors import ExportError
from segnets.layers import InvertedResidual
from tests.deploy.common import simplified


def test_a_feature_map_of_the_head_is_not_overwritten() -> None:
    model = simplified(segnets.create_model("lraspp_mobilenet_v3_large"))
    blocks: set[nn.Module] = {module for module in model.modules() if isinstance(module, InvertedResidual)}
    kept = blocks - may_overwrite_input(model, blocks)
    names = [name for name, module in model.named_modules() if module in kept]
    assert names == ["backbone.5"]  # reads the output of block 4, which is the head's "low"


class _AddsItsInput(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(x) + x
        return result


def test_a_container_may_read_its_input_twice() -> None:
    inner, outer, twice = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(outer), _AddsItsInput(inner), twice, twice)
    assert may_overwrite_input(model, {inner, outer, twice}) == {outer}


def test_an_input_with_a_later_reader_is_not_overwritten() -> None:
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lead, self.first, self.second = nn.ReLU(), first, second

        def forward(self, x: Tensor) -> Tensor:
            x = self.lead(x)
            result: Tensor = self.first(x) + self.second({"of": [x]}["of"][0])
            return result

    assert may_overwrite_input(Both(), {first, second}) == {second}
    assert torch.is_grad_enabled()


class _Shapes(nn.Module):
    """A network that creates a tensor and runs one convolution on two feature maps."""

    def __init__(self, *, by_value: bool = False) -> None:
        super().__init__()
        self.stem, self.twice, self.unused = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.by_value = by_value

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * torch.linspace(0, 1, x.shape[3])
        if self.by_value and x.mean().item() > 0:
            x = -x
        result: Tensor = self.twice(x) * self.twice(x.mean((2, 3), keepdim=True))
        return result


def test_input_shapes() -> None:
    model = _Shapes()
    assert convolution_input_shapes(model, (33, 65)) == {model.stem: [1, 3, 33, 65], model.twice: [1, 4, 16, 32]}
    assert not any(module._forward_pre_hooks for module in model.modules())


class _OwnConvolution(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, ::2]


def test_input_shapes_are_those_of_a_real_run() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
        nn.Conv2d(6, 6, 3, padding="same", groups=3),
        nn.Conv2d(6, 5, 3, padding="valid", dilation=3),
        _OwnConvolution(5, 5, 1),
        nn.Conv2d(5, 1, 1),
    )
    real: dict[nn.Module, list[int]] = {}
    for module in model:
        module.register_forward_pre_hook(lambda module, inputs: real.update({module: list(inputs[0].shape)}))
    model(torch.zeros(1, 3, 67, 91))
    assert convolution_input_shapes(model, (67, 91)) == real
    assert not any("forward" in vars(module) for module in model)


def test_a_network_that_does_not_run_has_no_shapes() -> None:
    with pytest.raises(ExportError, match=r"doesn't run on a float32 \(1, 3, 33, 65\) input: "):
        convolution_input_shapes(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(3, 3)), (33, 65))
