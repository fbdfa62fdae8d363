"""Initial values that tests copy from a pool are as random as drawn ones, and a test can ask for drawn ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import segnets
from tests.initial_values import fill_normal


def _kernels() -> list[torch.Tensor]:
    backbone = segnets.create_model("fcn_resnet18", num_classes=2, backbone_stages=3).backbone
    return [module.weight.detach() for module in backbone.modules() if isinstance(module, nn.Conv2d)]


def test_copied_values_follow_the_seed_and_the_distribution() -> None:
    torch.manual_seed(1)
    kernels = _kernels()
    assert not any(torch.equal(a, b) for a, b in zip(_kernels(), kernels, strict=True))
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(_kernels(), kernels, strict=True))
    for kernel in kernels:
        fan_out = kernel[:, 0].numel()
        assert kernel.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), kernel.shape
        assert kernel.flatten(1).unique(dim=0).shape[0] == kernel.shape[0]


def test_uniform_values_have_their_bounds() -> None:
    values = torch.empty(1_500_000).uniform_(-3, 5)
    assert values.min().item() == pytest.approx(-3, abs=0.01)
    assert values.max().item() == pytest.approx(5, abs=0.01)
    assert values.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("count", [999, 300_000, 1_500_000])
def test_filling_follows_the_generator(count: int) -> None:
    first, second, third = (torch.empty(count) for _ in range(3))
    generator = torch.Generator().manual_seed(3)
    for tensor in (first, second):
        fill_normal(tensor, 0.5, generator)
    fill_normal(third, 0.5, torch.Generator().manual_seed(3))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    assert first.std() == pytest.approx(0.5, rel=0.1)


@pytest.mark.usefixtures("drawn_initial_values")
def test_drawn_values_are_those_of_torch() -> None:
    torch.manual_seed(1)
    drawn = torch.empty(5000).normal_()
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.randn(5000))


def test_copied_values_are_not_those_of_torch() -> None:
    torch.manual_seed(1)
    copied = torch.empty(5000).normal_()
    torch.manual_seed(1)
    assert not torch.equal(copied, torch.randn(5000))
