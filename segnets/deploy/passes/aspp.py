"""Passes for ASPP and other branches that pool the whole image.

ASPP spreads its pooled branch over the feature map, concatenates it with the others, and projects it at every pixel,
although it is the same everywhere. That is a fifth of the projection's cost. Projected separately, the branch is almost
free.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnets.deploy.passes.context import Context, Outcome
from segnets.deploy.passes.convolutions import ConvAdd, Pieces
from segnets.layers import ASPP, PooledBranch


class PooledApart(nn.Module):
    """An ASPP whose pooled branch is projected separately. (N, in, H, W) -> (N, out, H, W). Scriptable.

    Args:
        aspp: Module for which `can_pool_apart` holds.
    """

    def __init__(self, aspp: ASPP) -> None:
        super().__init__()
        *branches, pooling = aspp.convs
        assert isinstance(pooling, nn.Sequential)
        projection, activation = aspp.project[0], aspp.project[2]
        assert isinstance(projection, nn.Conv2d)
        width = projection.in_channels // len(aspp.convs)
        pooled_channels = slice(0, width) if aspp.pool_first else slice(projection.in_channels - width, None)
        other_channels = slice(width, None) if aspp.pool_first else slice(0, projection.in_channels - width)
        self.maps = Pieces(branches)  # part of tensor names in ONNX files
        self.projection = _part(projection, other_channels, bias=False)
        # The branch's pooled value, and its part of the projection with the whole bias.
        self.pooled = nn.Sequential(*pooling, _part(projection, pooled_channels, bias=True))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Compute ASPP's output."""
        projected = self.projection(self.maps(x))
        # Spread explicitly: OpenCV can't add feature maps of different sizes after a convolution. Elsewhere this is
        # free.
        pooled = self.pooled(x).expand(-1, -1, projected.shape[2], projected.shape[3])
        result: Tensor = self.activation(projected + pooled)
        return result


class BroadcastBranch(nn.Module):
    """A branch that pools the whole image and repeats its value per channel instead of resizing it.

    (N, in, H, W) -> (N, out, H, W), channels last.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """Compute the branch's output."""
        pooled = self.layers(x)  # (N, C, 1, 1)
        spread: Tensor = pooled.expand(-1, -1, x.shape[2], x.shape[3])
        # In the memory format of the other branches: torch.cat of mixed formats returns the slower one.
        return spread.contiguous(memory_format=torch.channels_last)


class FusedPooledApart(nn.Module):
    """`PooledApart` with the pooled branch added inside the projection. (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, aspp: PooledApart) -> None:
        super().__init__()
        self.maps = aspp.maps
        self.pooled = BroadcastBranch(aspp.pooled)
        self.projection = ConvAdd(aspp.projection, aspp.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Compute ASPP's output."""
        result: Tensor = self.projection(self.maps(x), self.pooled(x))
        return result


def pool_apart(network: nn.Module, _context: Context) -> Outcome:
    """Project the pooled branch of every ASPP separately."""
    modules = [(name, m) for name, m in network.named_modules() if type(m) is ASPP and can_pool_apart(m)]
    for name, module in modules:
        network.set_submodule(name, PooledApart(module))
    return Outcome(network, {"aspp": len(modules)})


def broadcast_pooled_branches(network: nn.Module, _context: Context) -> Outcome:
    """Repeat the values of branches that pool the whole image, and add ASPP's inside its projection."""
    branches = fused = 0
    for name, module in list(network.named_modules()):
        if isinstance(module, PooledBranch) and module.bins == 1:
            network.set_submodule(name, BroadcastBranch(nn.Sequential(*module)))
            branches += 1
        elif isinstance(module, PooledApart) and type(module.activation) is nn.ReLU:
            network.set_submodule(name, FusedPooledApart(module))
            fused += 1
    return Outcome(network, {"branches": branches, "aspp": fused})


def can_pool_apart(aspp: ASPP) -> bool:
    """Return whether an ASPP can become a `PooledApart`.

    Its last branch has to pool the whole image. Its projection has to be a 1x1 convolution that only an activation
    follows, with the batch norm folded and the dropout removed.
    """
    pooling = aspp.convs[-1]
    if len(aspp.project) != 4 or not isinstance(pooling, PooledBranch) or pooling.bins != 1:
        return False
    projection, norm, _, dropout = aspp.project
    return (
        isinstance(projection, nn.Conv2d)
        and (projection.kernel_size, projection.stride, projection.padding) == ((1, 1), (1, 1), (0, 0))
        and projection.groups == 1
        and isinstance(pooling[1], nn.Conv2d)
        and projection.in_channels == len(aspp.convs) * pooling[1].out_channels
        and isinstance(norm, nn.Identity)
        and isinstance(dropout, nn.Identity)
    )


def _part(projection: nn.Conv2d, channels: slice, *, bias: bool) -> nn.Conv2d:
    """Build the same 1x1 convolution for some of its input channels."""
    weight = projection.weight.detach()[:, channels].clone()
    part = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias, device="meta")
    part.weight = nn.Parameter(weight, requires_grad=False)
    if bias:
        old = projection.bias
        values = torch.zeros(weight.shape[0]) if old is None else old.detach().clone()
        part.bias = nn.Parameter(values, requires_grad=False)
    return part
