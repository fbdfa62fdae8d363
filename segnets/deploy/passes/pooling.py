"""Means of maps, for gates and for branches that see the whole image, in other forms than nn.AdaptiveAvgPool2d.

They compute the same, summed in float32; last bits differ.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.deploy.passes.context import Context, Outcome


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


class WholeAverage(nn.Module):
    """The mean of every channel, as ONNX's own pooling: runtimes have no fast mean, in 8 bits least of all.

    (N, C, H, W) -> (N, C, 1, 1).
    """

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], x.shape[1], 1, 1)
        result: Tensor = torch.onnx.ops.symbolic("GlobalAveragePool", (x,), dtype=x.dtype, shape=shape)
        return result


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


def average_by_window(network: nn.Module, context: Context) -> Outcome:
    """Replace averages over the whole feature map in bfloat16; in float32 torch's own are as fast."""
    if context.dtype != torch.bfloat16:
        return Outcome(network)
    return Outcome(network, _replace_poolings(network, MeanByWindow))


def average_by_lines(network: nn.Module, _context: Context) -> Outcome:
    """Replace averages by forms that torch's compiler turns into good loops."""
    return Outcome(network, _replace_poolings(network, MeanByLines, GridAverage))


def average_in_onnx(network: nn.Module, _context: Context) -> Outcome:
    """Replace averages by operators that ONNX has."""
    return Outcome(network, _replace_poolings(network, WholeAverage, GridAverage))


def _replace_poolings(
    network: nn.Module,
    whole: type[nn.Module],
    grid: Callable[[int | None, int | None], nn.Module] | None = None,
) -> dict[str, int]:
    """Replace every nn.AdaptiveAvgPool2d, under all of its names.

    Args:
        network: Changed in place.
        whole: Replaces those with a single cell.
        grid: Called with rows and columns, makes the replacement of the others; None leaves them.
    """
    wholes, grids = set(), set()
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if type(module) is nn.AdaptiveAvgPool2d:  # a subclass may compute something else
            size = module.output_size
            rows, columns = (size, size) if size is None or isinstance(size, int) else size
            if rows == columns == 1:
                network.set_submodule(name, whole())
                wholes.add(module)
            elif grid is not None:
                network.set_submodule(name, grid(rows, columns))
                grids.add(module)
    return {"whole": len(wholes), "grid": len(grids)}


def _averages(cells: int, length: int) -> Tensor:
    """(cells, length) float32: what each pixel counts in each cell."""
    cell, pixel = torch.arange(cells).view(-1, 1), torch.arange(length).view(1, -1)
    start = torch.div(cell * length, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode="floor")
    inside = (pixel >= start) & (pixel < end)
    return inside.to(torch.float32) / (end - start).to(torch.float32)
