"""Faster ways to resize logits, compared with torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segnets.deploy.passes.resize import UpsampleLines, UpsampleProducts


@pytest.mark.parametrize("upsample", [UpsampleLines, UpsampleProducts])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 21, 65, 65), (520, 520)), ((2, 5, 9, 12), (65, 97)), ((3, 2, 1, 1), (7, 9)), ((1, 1, 5, 1), (33, 2))],
)
def test_agrees_with_interpolate(
    upsample: type[UpsampleLines] | type[UpsampleProducts],
    align_corners: bool,
    layout: torch.memory_format,
    shape: tuple[int, int, int, int],
    size: tuple[int, int],
) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    result = upsample(align_corners)(logits, *size)
    assert result.is_contiguous()
    # The source position is a float32 of up to 65, whose last bit is 4e-6 of a pixel.
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_to_one_pixel(align_corners: bool) -> None:
    logits = torch.randn(1, 3, 6, 8)
    expected = F.interpolate(logits, (1, 1), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(UpsampleLines(align_corners)(logits, 1, 1), expected)
