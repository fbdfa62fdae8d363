"""The mean of a whole map in other forms, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segnets.export.means import GridAverage, MeanByLines, MeanByWindow, use_means


@pytest.mark.parametrize("kind", [MeanByWindow, MeanByLines])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(65, 65), (7, 33), (1, 1)])
def test_exact(size: tuple[int, int], dtype: torch.dtype, kind: type[MeanByWindow | MeanByLines]) -> None:
    x = torch.rand(2, 40, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    exact = x.double().mean((2, 3), keepdim=True)
    mean = kind()(x)
    assert mean.dtype == dtype
    assert mean.shape == exact.shape
    error = (mean.double() - exact).abs().max()
    # Sums of up to 4225 values in float32; of a result from 0.5 to 1, bfloat16 then rounds half of a 256th away.
    assert error <= (0 if dtype == torch.float32 else 2**-9) + 1e-5
    if dtype == torch.bfloat16:
        assert error <= (x.mean((2, 3), keepdim=True).double() - exact).abs().max()  # torch's own


@pytest.mark.parametrize("kind", [MeanByWindow, MeanByLines])
def test_poolings_of_several_cells_are_left(kind: type[MeanByWindow | MeanByLines]) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)), nn.AdaptiveAvgPool2d(2))
    use_means(model, kind)
    assert [type(module) for module in model] == [kind, kind, nn.AdaptiveAvgPool2d]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(65, 65), (7, 33), (3, 2)])
def test_grids(size: tuple[int, int], dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.AdaptiveAvgPool2d((3, 2)), nn.AdaptiveAvgPool2d(1))
    x = torch.rand(2, 5, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = model(x.double())
    use_means(model, MeanByLines, GridAverage)
    assert [type(module) for module in model] == [GridAverage, GridAverage, MeanByLines]
    result = model(x)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 2**-8)


@pytest.mark.parametrize("cells", [(2, 2), (3, 6), (6, 1)])
def test_pooling_into_a_grid(cells: tuple[int, int]) -> None:
    for size in ((1, 1), (6, 6), (13, 7), (64, 65)):
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        expected = torch.nn.functional.adaptive_avg_pool2d(x, cells)
        torch.testing.assert_close(GridAverage(*cells)(x), expected, rtol=1e-5, atol=1e-6)
