"""The mean of a whole map, for gates and for branches that see the whole image, in forms that suit channels last.

Both as nn.AdaptiveAvgPool2d(1): (N, C, H, W) -> (N, C, 1, 1), summed in float32; last bits differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MeanByWindow(nn.Module):
    """By a window as large as the map. Scriptable.

    Of bfloat16, torch's mean makes a copy in float32 and then walks it against the order of channels last: 13 ms for
    2048 channels of 65x65, where a pooling, which sums in float32 too, takes half of one.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, [x.shape[2], x.shape[3]])


class MeanByLines(nn.Module):
    """Of each line, and then of the lines, which a compiler makes loops of.

    Its loops read a few channels of all pixels, then the next few: of a line, which a near cache holds, and of a
    whole map, which it doesn't, a page of memory for each pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        lines = x.mean(3, keepdim=True, dtype=torch.float32)
        return lines.mean(2, keepdim=True).to(x.dtype)


def use_means(model: nn.Module, kind: type[MeanByWindow | MeanByLines]) -> None:
    """Exchange every nn.AdaptiveAvgPool2d of a single cell in `model`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            model.set_submodule(name, kind())
