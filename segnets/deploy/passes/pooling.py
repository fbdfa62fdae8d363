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

    rows, columns: None for as many as come.
    ONNX has no such pooling, and torch's compiler gives wrong results with another size than the one it traced.
    """

    def __init__(self, rows: int | None, columns: int | None) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        result = x.to(torch.float32)
        if self.rows is not None:
            result = torch.matmul(_averages(self.rows, x.shape[2]), result)
        if self.columns is not None:
            result = torch.matmul(result, _averages(self.columns, x.shape[3]).transpose(0, 1))
        return result.to(x.dtype)


def use_means(
    model: nn.Module,
    whole: type[nn.Module],
    grid: Callable[[int | None, int | None], nn.Module] | None = None,
) -> None:
    """Exchange every nn.AdaptiveAvgPool2d in `model`: those of one cell by `whole`, others by `grid` or not at all.

    grid: called with rows and columns.
    """
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if type(module) is nn.AdaptiveAvgPool2d:  # a subclass may compute something else
            size = module.output_size
            rows, columns = (size, size) if size is None or isinstance(size, int) else size
            if rows == columns == 1:
                model.set_submodule(name, whole())
            elif grid is not None:
                model.set_submodule(name, grid(rows, columns))


def _averages(cells: int, length: int) -> Tensor:
    """(cells, length) float32: what each pixel counts in each cell."""
    cell, pixel = torch.arange(cells).view(-1, 1), torch.arange(length).view(1, -1)
    start = torch.div(cell * length, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode="floor")
    inside = (pixel >= start) & (pixel < end)
    return inside.to(torch.float32) / (end - start).to(torch.float32)
