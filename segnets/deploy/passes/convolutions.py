"""Convolutions that oneDNN computes faster in pieces, each of which makes some of the output channels.

Of many input channels and all output channels at once, the kernels of a 3x3 convolution are too many for the nearest
cache: the head of an FCN on a ResNet-50, of 2048 channels, runs at three quarters of the speed of the others. Pieces
read the same input, and every sum has the same terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Measured with 2048 and 1024 input channels; pieces of dilated kernels, which skip much of the image, gain nothing.
_MANY_CHANNELS = 1024
_PIECE = 128


class Pieces(nn.Module):
    """What its parts make of one input, one behind the other in channels. (N, C, H, W) -> (N, C', H', W')."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=1)


def pieces_of(convolution: nn.Conv2d) -> list[nn.Conv2d]:
    """The convolution itself, or several that make its output channels in their order."""
    if (
        convolution.in_channels < _MANY_CHANNELS
        or convolution.out_channels <= _PIECE
        or convolution.groups != 1
        or convolution.kernel_size == (1, 1)
        or convolution.dilation != (1, 1)
    ):
        return [convolution]
    return [
        _part(convolution, slice(start, min(start + _PIECE, convolution.out_channels)))
        for start in range(0, convolution.out_channels, _PIECE)
    ]


def _part(whole: nn.Conv2d, channels: slice) -> nn.Conv2d:
    part = nn.Conv2d(
        whole.in_channels,
        channels.stop - channels.start,
        _pair(whole.kernel_size),
        _pair(whole.stride),
        whole.padding if isinstance(whole.padding, str) else _pair(whole.padding),
        bias=whole.bias is not None,
        padding_mode=whole.padding_mode,
        device="meta",
    )
    part.weight = nn.Parameter(whole.weight.detach()[channels].clone(), requires_grad=False)
    if whole.bias is not None:
        part.bias = nn.Parameter(whole.bias.detach()[channels].clone(), requires_grad=False)
    return part


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    """A two-dimensional layer's numbers, which torch's type hints take for a tuple of any length."""
    height, width = sizes
    return height, width
