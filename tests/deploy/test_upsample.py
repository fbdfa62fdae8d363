"""The faster ways to resize scores, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segnets.deploy.passes.resize import UpsampleLines, UpsampleProducts


@pytest.mark.parametrize("way", [UpsampleLines, UpsampleProducts])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 21, 65, 65), (520, 520)), ((2, 5, 9, 12), (65, 97)), ((3, 2, 1, 1), (7, 9)), ((1, 1, 5, 1), (33, 2))],
)
def test_agrees_with_interpolate(
    way: type[UpsampleLines] | type[UpsampleProducts],
    align_corners: bool,
    layout: torch.memory_format,
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    expected = F.interpolate(scores, size, mode="bilinear", align_corners=align_corners)
    result = way(align_corners)(scores, *size)
    assert result.is_contiguous()
    # Where a pixel comes from is a float32 of up to 65, whose last bit is 4e-6 of a pixel.
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_to_one_pixel(align_corners: bool) -> None:
    scores = torch.randn(1, 3, 6, 8)
    expected = F.interpolate(scores, (1, 1), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(UpsampleLines(align_corners)(scores, 1, 1), expected)
