"""Passes for CUDA: compute convolution, bias, ReLU and residual addition in one call to cuDNN.

LibTorch has operators for such calls. They read and write the large feature maps once instead of three times: a 1x1
convolution from few to many channels takes a third of the time. Grouped convolutions stay as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.deploy.passes._graph import consecutive_pairs, names_of
from segnets.deploy.passes.context import Context, Outcome
from segnets.deploy.passes.convolutions import ConvAdd, as_ints, is_plain
from segnets.deploy.passes.residual import FusedResidual


class _Conv(nn.Module):
    """Weights and settings of a fused convolution."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight = convolution.weight.detach().contiguous(memory_format=torch.channels_last)
        bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias.detach()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.stride = as_ints(convolution.stride)
        self.padding = as_ints(convolution.padding)
        self.dilation = as_ints(convolution.dilation)
        self.widest = max(convolution.in_channels, convolution.out_channels)

    def _fits(self, x: Tensor) -> bool:
        """Return whether cuDNN takes the input: it is on a GPU, and its indices fit into 32 bits."""
        return x.is_cuda and x.shape[0] * self.widest * x.shape[2] * x.shape[3] < 2147483648


class ConvReLU(_Conv):
    """A convolution with its bias and ReLU. (N, in, H, W) -> (N, out, H', W'). Scriptable; runs on CPUs too."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the convolution and ReLU."""
        if self._fits(x):
            return torch.cudnn_convolution_relu(x, self.weight, self.bias, self.stride, self.padding, self.dilation, 1)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation).relu()


class ConvAddReLU(_Conv):
    """A `ConvReLU` that adds another feature map of the result's shape before the ReLU."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Compute the convolution, add `other`, and apply ReLU."""
        if self._fits(x):
            return torch.cudnn_convolution_add_relu(
                x, self.weight, other, 1.0, self.bias, self.stride, self.padding, self.dilation, 1
            )
        return (F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation) + other).relu()


def merge_shortcut_biases(network: nn.Module, _context: Context) -> Outcome:
    """Move the bias of a shortcut's convolution into the convolution that adds the shortcut.

    A separate addition would read and write the feature map once more.
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


def fuse_convolutions(network: nn.Module, context: Context) -> Outcome:
    """Replace each convolution and its ReLU, with or without an addition, with one call to cuDNN."""
    additions = fused = 0
    for name, module in list(network.named_modules()):
        if isinstance(module, ConvAdd) and type(module.activation) is nn.ReLU and _is_fusible(module.convolution):
            network.set_submodule(name, ConvAddReLU(module.convolution))
            additions += 1
    for convolution, activation in consecutive_pairs(network, nn.Conv2d, nn.ReLU, context.channels):
        if type(activation) is nn.ReLU and _is_fusible(convolution):
            for name in names_of(network, convolution):
                network.set_submodule(name, ConvReLU(convolution))
            for name in names_of(network, activation):
                network.set_submodule(name, nn.Identity())
            fused += 1
    return Outcome(network, {"plain": fused, "plain_with_addition": additions})


def _is_fusible(convolution: nn.Conv2d) -> bool:
    return is_plain(convolution) and convolution.groups == 1
