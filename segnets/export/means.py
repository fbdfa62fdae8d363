"""Means of maps, for gates and for branches that see the whole image, in other forms than nn.AdaptiveAvgPool2d.

They compute the same, summed in float32; last bits differ.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MeanByWindow(nn.Module):
    """By a window as large as the map. (N, C, H, W) -> (N, C, 1, 1). Scriptable.

    Of bfloat16, torch's mean makes a copy in float32 and then walks it against the order of channels last: 13 ms for
    2048 channels of 65x65, where a pooling, which sums in float32 too, takes half of one.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, [x.shape[2], x.shape[3]])


class MeanByLines(nn.Module):
    """Of each line, and then of the lines, which a compiler makes loops of. (N, C, H, W) -> (N, C, 1, 1).

    Its loops read a few channels of all pixels, then the next few: of a line, which a near cache holds, and of a
    whole map, which it doesn't, a page of memory for each pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        lines = x.mean(3, keepdim=True, dtype=torch.float32)
        return lines.mean(2, keepdim=True).to(x.dtype)


class GridAverage(nn.Module):
    """As nn.AdaptiveAvgPool2d, by matrices made of the size: (N, C, H, W) -> (N, C, rows, columns).

    ONNX has no such pooling, and torch's compiler gives wrong results with another size than the one it traced.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        down, across = _averages(self.rows, x.shape[2]), _averages(self.columns, x.shape[3])
        return torch.matmul(torch.matmul(down, x.to(torch.float32)), across.transpose(0, 1)).to(x.dtype)


def use_means(model: nn.Module, whole: type[nn.Module], grid: Callable[[int, int], nn.Module] | None = None) -> None:
    """Exchange every nn.AdaptiveAvgPool2d in `model`: those of one cell by `whole`, others by `grid` or not at all.

    grid: called with rows and columns.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d):
            size = module.output_size
            rows, columns = size if isinstance(size, tuple) else (size, size)
            if rows == columns == 1:
                model.set_submodule(name, whole())
            elif grid is not None and isinstance(rows, int) and isinstance(columns, int):
                model.set_submodule(name, grid(rows, columns))


def _averages(cells: int, length: int) -> Tensor:
    """(cells, length) float32: what each pixel counts in each cell."""
    cell, pixel = torch.arange(cells).view(-1, 1), torch.arange(length).view(1, -1)
    start = torch.div(cell * length, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode="floor")
    inside = (pixel >= start) & (pixel < end)
    return inside.to(torch.float32) / (end - start).to(torch.float32)
