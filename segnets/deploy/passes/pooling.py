"""Passes that replace nn.AdaptiveAvgPool2d, in gates and in branches that pool the whole image.

The replacements sum in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.deploy.passes.context import Context, Outcome


class MeanByWindow(nn.Module):
    """Average over a window as large as the feature map. (N, C, H, W) -> (N, C, 1, 1). Scriptable.

    In bfloat16, torch's mean copies the feature map to float32, and then reads it in an order that is slow for channels
    last. For 2048 channels of 65x65 this takes 13 ms. Average pooling, which also sums in float32, takes 0.5 ms.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average every channel."""
        return F.avg_pool2d(x, [x.shape[2], x.shape[3]])


class MeanByLines(nn.Module):
    """Average over each line, then over the lines. (N, C, H, W) -> (N, C, 1, 1).

    The compiler's loop reads a few channels of all pixels, then the next few. A line fits a near cache. A whole feature
    map doesn't, and its loop would touch a page of memory per pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average every channel."""
        lines = x.mean(3, keepdim=True, dtype=torch.float32)
        return lines.mean(2, keepdim=True).to(x.dtype)


class WholeAverage(nn.Module):
    """Average over the feature map by ONNX's GlobalAveragePool. (N, C, H, W) -> (N, C, 1, 1).

    Runtimes compute it faster than a mean, above all in 8 bits.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the right shape, which the ONNX exporter records as GlobalAveragePool."""
        shape = (x.shape[0], x.shape[1], 1, 1)
        result: Tensor = torch.onnx.ops.symbolic("GlobalAveragePool", (x,), dtype=x.dtype, shape=shape)
        return result


class GridAverage(nn.Module):
    """An nn.AdaptiveAvgPool2d by matrix products. (N, C, H, W) -> (N, C, rows, columns).

    ONNX has no such pooling, and torch's compiler returns wrong results for sizes other than the traced one.

    Args:
        rows: Height of the grid; None keeps the feature map's.
        columns: Width of the grid; None keeps the feature map's.
    """

    def __init__(self, rows: int | None, columns: int | None) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        """Average over every cell of the grid."""
        result = x.to(torch.float32)
        if self.rows is not None:
            result = torch.matmul(_averages(self.rows, x.shape[2]), result)
        if self.columns is not None:
            result = torch.matmul(result, _averages(self.columns, x.shape[3]).transpose(0, 1))
        return result.to(x.dtype)


def average_by_window(network: nn.Module, context: Context) -> Outcome:
    """Replace averages over the whole feature map in bfloat16. In float32, torch's own are as fast."""
    if context.dtype != torch.bfloat16:
        return Outcome(network)
    return Outcome(network, _replace_poolings(network, MeanByWindow))


def average_by_lines(network: nn.Module, _context: Context) -> Outcome:
    """Replace averages with forms that torch's compiler turns into fast loops."""
    return Outcome(network, _replace_poolings(network, MeanByLines, GridAverage))


def average_in_onnx(network: nn.Module, _context: Context) -> Outcome:
    """Replace averages with operators that ONNX has."""
    return Outcome(network, _replace_poolings(network, WholeAverage, GridAverage))


def _replace_poolings(
    network: nn.Module,
    whole: type[nn.Module],
    grid: Callable[[int | None, int | None], nn.Module] | None = None,
) -> dict[str, int]:
    """Replace every nn.AdaptiveAvgPool2d, under all of its names.

    Args:
        network: Network to change in place.
        whole: Type of the replacement for poolings with a single cell.
        grid: Factory of the replacement for other poolings, called with rows and columns. None keeps them.

    Returns:
        Number of replaced modules of both kinds.
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
    """Return the weight of every pixel in every cell: (cells, length), float32."""
    cell, pixel = torch.arange(cells).view(-1, 1), torch.arange(length).view(1, -1)
    start = torch.div(cell * length, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode="floor")
    inside = (pixel >= start) & (pixel < end)
    return inside.to(torch.float32) / (end - start).to(torch.float32)
