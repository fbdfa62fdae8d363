"""ASPP whose pooling branch stays a number for each channel, which every pixel of the result adds.

ASPP spreads the branch over a map, concatenates it with the others and projects it at every pixel, a fifth of the
projection, although it is the same everywhere. Projected by itself it costs nothing. Last bits differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segnets.deploy.passes.convolutions import Pieces
from segnets.layers import ASPP, PooledBranch


class PooledApart(nn.Module):
    """As an ASPP for which `suits` says True. (N, in, H, W) -> (N, out, H, W). Scriptable."""

    def __init__(self, aspp: ASPP) -> None:
        super().__init__()
        *branches, pooling = aspp.convs
        assert isinstance(pooling, nn.Sequential)
        projection, activation = aspp.project[0], aspp.project[2]
        assert isinstance(projection, nn.Conv2d)
        width = projection.in_channels // len(aspp.convs)
        of_pooled = slice(0, width) if aspp.pool_first else slice(projection.in_channels - width, None)
        of_maps = slice(width, None) if aspp.pool_first else slice(0, projection.in_channels - width)
        self.maps = Pieces(branches)
        self.projection = _part(projection, of_maps, bias=False)
        # The pooling branch before it is spread, and its share of the projection with all of the bias.
        self.pooled = nn.Sequential(*pooling, _part(projection, of_pooled, bias=True))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.projection(self.maps(x)) + self.pooled(x))
        return result


def suits(aspp: ASPP) -> bool:
    """Whether the last branch pools the whole image, the projection is pointwise, and only an activation follows it.

    Batch norm and dropout are gone by then.
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
    """The same projection of some of its input channels."""
    weight = projection.weight.detach()[:, channels].clone()
    part = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias, device="meta")
    part.weight = nn.Parameter(weight, requires_grad=False)
    if bias:
        old = projection.bias
        values = torch.zeros(weight.shape[0]) if old is None else old.detach().clone()
        part.bias = nn.Parameter(values, requires_grad=False)
    return part
