"""Convolution, bias, ReLU and residual addition in one call of cuDNN, by operators that LibTorch has for CUDA.

The maps are as large as the kernels are small: read and written once instead of three times, a 1x1 convolution that
makes many channels of few takes a third of the time. Convolutions in groups stay as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.deploy.passes._graph import followers, names_of
from segnets.deploy.passes.context import Context, Outcome
from segnets.deploy.passes.convolutions import ConvAdd, is_plain, two
from segnets.deploy.passes.residual import FusedResidual


class _Conv(nn.Module):
    """What a fused convolution is made of."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight = convolution.weight.detach().contiguous(memory_format=torch.channels_last)
        bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias.detach()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.stride = two(convolution.stride)
        self.padding = two(convolution.padding)
        self.dilation = two(convolution.dilation)
        self.widest = max(convolution.in_channels, convolution.out_channels)

    def _fits(self, x: Tensor) -> bool:
        """Whether it lies on a GPU, in maps whose elements 32 bits count: cuDNN has no others."""
        return x.is_cuda and x.shape[0] * self.widest * x.shape[2] * x.shape[3] < 2147483648


class ConvReLU(_Conv):
    """A convolution with its bias and ReLU. (N, in, H, W) -> (N, out, H', W'). Scriptable; runs on processors too."""

    def forward(self, x: Tensor) -> Tensor:
        if self._fits(x):
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, self.stride, self.padding, self.dilation, 1)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation).relu()


class ConvAddReLU(_Conv):
    """The same with another map of the result's shape, which is added before the ReLU."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        if self._fits(x):
            return torch.cudnn_convolution_add_relu(
                x, self.weight, other, 1.0, self.bias, self.stride, self.padding, self.dilation, 1
            )
        return (F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation) + other).relu()


def merge_shortcut_biases(network: nn.Module, _context: Context) -> Outcome:
    """Move the bias of a shortcut's convolution into the convolution that adds the shortcut.

    This saves one pass over the feature map.
    """
    count = 0
    for module in network.modules():
        if not isinstance(module, FusedResidual) or not isinstance(module.last, ConvAdd):
            continue
        last = module.last.convolution
        layers = [each for each in module.shortcut.modules() if not isinstance(each, nn.Identity | nn.Sequential)]
        convolution = layers[-1] if layers else None
        if isinstance(convolution, nn.Conv2d) and convolution.bias is not None and last.bias is not None:
            last.bias = nn.Parameter(last.bias.detach() + convolution.bias.detach(), requires_grad=False)
            convolution.bias = None
            count += 1
    return Outcome(network, {"biases": count})


def fuse_convolutions(network: nn.Module, _context: Context) -> Outcome:
    """Replace convolutions by a call of cuDNN that computes bias, ReLU and addition too."""
    additions = fused = 0
    for name, module in list(network.named_modules()):
        if isinstance(module, ConvAdd) and type(module.activation) is nn.ReLU and _is_fusible(module.convolution):
            network.set_submodule(name, ConvAddReLU(module.convolution))
            additions += 1
    for convolution, activation in followers(network, nn.Conv2d, nn.ReLU):
        if type(activation) is nn.ReLU and _is_fusible(convolution):
            for name in names_of(network, convolution):
                network.set_submodule(name, ConvReLU(convolution))
            for name in names_of(network, activation):
                network.set_submodule(name, nn.Identity())
            fused += 1
    return Outcome(network, {"plain": fused, "plain_with_addition": additions})


def _is_fusible(convolution: nn.Conv2d) -> bool:
    return is_plain(convolution) and convolution.groups == 1
