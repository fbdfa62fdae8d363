"""Replacements of adaptive average pooling, compared with float64 and with torch's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.deploy.passes.context import Context
from segnets.deploy.passes.pooling import GridAverage, MeanByLines, MeanByWindow, average_by_lines, average_by_window
from tests.typed import part


@pytest.mark.parametrize("average", [MeanByWindow, MeanByLines])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(65, 65), (7, 33), (1, 1)])
def test_a_whole_feature_map(
    size: tuple[int, int], dtype: torch.dtype, average: type[MeanByWindow | MeanByLines]
) -> None:
    x = torch.rand(2, 40, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    exact = x.double().mean((2, 3), keepdim=True)
    mean = average()(x)
    assert mean.dtype == dtype
    assert mean.shape == exact.shape
    error = (mean.double() - exact).abs().max()
    # Sums of up to 4225 values in float32. bfloat16 then rounds a result in 0.5..1 by up to half of 1/256.
    assert error <= (0 if dtype == torch.float32 else 2**-9) + 1e-5
    if dtype == torch.bfloat16:
        assert error <= (x.mean((2, 3), keepdim=True).double() - exact).abs().max()  # torch's own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(65, 65), (13, 7), (3, 2), (1, 1)])
@pytest.mark.parametrize("cells", [(6, 6), (3, 6), (3, 2), (6, 1), (2, None), (None, None)])
def test_a_grid(cells: tuple[int | None, int | None], size: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.rand(2, 5, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = F.adaptive_avg_pool2d(x.double(), cells)
    result = GridAverage(*cells)(x)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 2**-8)


class _PowerMean(nn.AdaptiveAvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x**3) ** (1 / 3)


def test_selected_poolings_are_replaced() -> None:
    """Every way to write a size is replaced, shared modules too, but no subclass."""
    pool: Any = nn.AdaptiveAvgPool2d  # its hints rule out lists
    shared = pool([3, 2])
    sizes = [1, (1, 1), [1, 1], 6, (6, 1), (2, None), None]
    model = nn.Sequential(*map(pool, sizes), shared, nn.Sequential(shared), _PowerMean(1))
    context = Context("torchscript", "cpu")
    assert average_by_window(model, context).counts == {}
    assert average_by_window(model, replace(context, dtype=torch.bfloat16)).counts == {"whole": 3, "grid": 0}
    assert [type(module) for module in list(model)[:4]] == [*[MeanByWindow] * 3, nn.AdaptiveAvgPool2d]
    assert average_by_lines(model, context).counts == {"whole": 0, "grid": 5}
    assert [type(module) for module in list(model)[3:8]] == [GridAverage] * 5
    grids = [(part(module, "rows"), part(module, "columns")) for module in list(model)[3:8]]
    assert grids == [
        (6, 6),
        (6, 1),
        (2, None),
        (None, None),
        (3, 2),
    ]
    assert type(part(model, "8.0")) is GridAverage
    assert type(model[9]) is _PowerMean
