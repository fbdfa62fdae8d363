"""Scores brought to the image's size, bilinear as `segnets.layers.resize_bilinear`, which on CPUs has faster ways.

torch goes through the pixels of one image with channels last in one thread, and reads four of them for each that it
writes. Here width and height are resized one after the other, which is the same sum: every pixel of the first pass,
which is small, is used many times. Last bits differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.layers import resize_bilinear


class UpsamplePlain(nn.Module):
    """As `SegmentationModel` does it. (N, C, h, w), (H, W) -> (N, C, H, W)."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, scores: Tensor, height: int, width: int) -> Tensor:
        return resize_bilinear(scores, [height, width], self.align_corners)


class UpsampleLines(nn.Module):
    """By torch's kernel for channels last: an image's lines are given to it as pixels of many channels. Scriptable.

    (N, C, h, w), (H, W) -> (N, C, H, W), contiguous.
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, scores: Tensor, height: int, width: int) -> Tensor:
        n, classes, h, w = scores.shape
        columns = scores.permute(0, 2, 3, 1).reshape(n * h, w, classes)
        wide = self._stretched(columns, width).reshape(n, h, width, classes)
        lines = wide.permute(0, 3, 1, 2).reshape(n * classes, h, width)
        return self._stretched(lines, height).reshape(n, classes, height, width)

    def _stretched(self, lines: Tensor, count: int) -> Tensor:
        """(B, n, K) -> (B, count, K)."""
        b, n, k = lines.shape
        # Written out, since torch has to see channels last, and of an image that is one pixel wide it can't tell.
        pixels = lines.contiguous().as_strided([b, k, n, 1], [n * k, 1, k, k])
        result = F.interpolate(pixels, size=[count, 1], mode="bilinear", align_corners=self.align_corners)
        return result.permute(0, 2, 3, 1).reshape(b, count, k)


class UpsampleProducts(nn.Module):
    """By a product with the weights of all columns, and sums of two lines each, which a compiler makes good loops of.

    (N, C, h, w), (H, W) -> (N, C, H, W), contiguous; H, W >= 2. Infinite scores spread over their line.
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, scores: Tensor, height: int, width: int) -> Tensor:
        n, classes, h, w = scores.shape
        columns = torch.arange(w, dtype=scores.dtype).unsqueeze(1)
        weights = (1 - (self._sources(w, width) - columns).abs()).clamp(min=0)  # (w, W), two of each column above 0
        wide = torch.matmul(scores.reshape(n * classes * h, w), weights).view(n, classes, h, width)
        source = self._sources(h, height)
        above = source.to(torch.int64)
        below = (above + 1).clamp(max=h - 1)
        share = (source - above).unsqueeze(1)
        return wide[:, :, above] * (1 - share) + wide[:, :, below] * share

    def _sources(self, size: int, count: int) -> Tensor:
        """Where each of `count` pixels comes from, in pixels of `size`: (count,), 0..size - 1."""
        index = torch.arange(count, dtype=torch.float32)
        if self.align_corners:
            return index * ((size - 1) / (count - 1))
        return ((index + 0.5) * (size / count) - 0.5).clamp(0, size - 1)


Upsample = UpsamplePlain | UpsampleLines | UpsampleProducts
