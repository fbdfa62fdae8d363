"""Residual blocks whose addition and last activation are done by their last convolution."""

from __future__ import annotations

from torch import Tensor, nn

from segnets.backbones import BasicBlock, Bottleneck


class FusedResidual(nn.Module):
    """A residual block whose last convolution adds to the shortcut. (N, C, H, W) -> (N, C', H', W').

    last: takes the body's map and the shortcut's.
    """

    def __init__(self, body: nn.Module, last: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.last = last
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        body = self.body(x)
        result: Tensor = self.last(body, self.shortcut(x))
        return result


class Copy(nn.Module):
    """As nn.Identity, in memory of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def plain_convolutions(block: nn.Module) -> list[nn.Conv2d]:
    """A ResNet block's convolutions in their order, each with ReLU behind it, the last one behind the addition.

    Empty for what is no such block, or has another activation, norms that were not folded, or padding that is not of
    zeros.
    """
    if type(block) not in (Bottleneck, BasicBlock) or type(block.relu) is not nn.ReLU:
        return []
    names = ("conv1", "conv2", "conv3") if isinstance(block, Bottleneck) else ("conv1", "conv2")
    norms = [getattr(block, name.replace("conv", "bn")) for name in names]
    convolutions: list[nn.Conv2d] = [getattr(block, name) for name in names]
    if all(isinstance(norm, nn.Identity) for norm in norms) and all(map(is_plain, convolutions)):
        return convolutions
    return []


def is_plain(convolution: nn.Conv2d) -> bool:
    """Whether its padding is a number of zeros."""
    return convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


def two(value: tuple[int, ...] | str) -> list[int]:
    """A two-dimensional layer's numbers, as operators take them; of one that `is_plain`."""
    assert not isinstance(value, str)
    return list(value)
