"""Modules that resize logits to the image's size, faster on CPUs than `segnets.layers.resize_bilinear`.

For one image in channels-last format, torch works in one thread and reads four pixels for each that it writes. Here
width and height are resized one after the other. The sum is the same, and the small result of the first pass is read
many times. Only the last bits differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.layers import resize_bilinear


class UpsamplePlain(nn.Module):
    """The resizing of `SegmentationModel`. (N, C, h, w), (H, W) -> (N, C, H, W).

    Args:
        align_corners: As in `segnets.layers.resize_bilinear`.
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Resize logits to `height` and `width`."""
        return resize_bilinear(logits, [height, width], self.align_corners)


class UpsampleLines(nn.Module):
    """Resizing by torch's channels-last kernel. (N, C, h, w), (H, W) -> (N, C, H, W), contiguous. Scriptable.

    The kernel reads the lines of an image as pixels of many channels.

    Args:
        align_corners: As in `segnets.layers.resize_bilinear`.
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Resize logits to `height` and `width`."""
        n, classes, h, w = logits.shape
        columns = logits.permute(0, 2, 3, 1).reshape(n * h, w, classes)
        wide = self._resized(columns, width).reshape(n, h, width, classes)
        lines = wide.permute(0, 3, 1, 2).reshape(n * classes, h, width)
        return self._resized(lines, height).reshape(n, classes, height, width)

    def _resized(self, lines: Tensor, count: int) -> Tensor:
        """Resize lines of pixels: (B, n, K) -> (B, count, K)."""
        b, n, k = lines.shape
        # These views give the strides that torch recognises as channels last in an image one pixel wide.
        pixels = lines.contiguous().view(b, n, 1, k).permute(0, 3, 1, 2)
        result = F.interpolate(pixels, size=[count, 1], mode="bilinear", align_corners=self.align_corners)
        return result.permute(0, 2, 3, 1).reshape(b, count, k)


class UpsampleProducts(nn.Module):
    """Resizing by a matrix product over columns and sums of two lines, which compile to fast loops.

    (N, C, h, w), (H, W) -> (N, C, H, W), contiguous; H, W >= 2. An infinite logit spreads over its line.

    Args:
        align_corners: As in `segnets.layers.resize_bilinear`.
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, logits: Tensor, height: int, width: int) -> Tensor:
        """Resize logits to `height` and `width`."""
        n, classes, h, w = logits.shape
        columns = torch.arange(w, dtype=logits.dtype).unsqueeze(1)
        weights = (1 - (self._sources(w, width) - columns).abs()).clamp(
            min=0
        )  # (w, W), at most two above 0 in each column
        wide = torch.matmul(logits.reshape(n * classes * h, w), weights).view(n, classes, h, width)
        source = self._sources(h, height)
        above = source.to(torch.int64)
        below = (above + 1).clamp(max=h - 1)
        share = (source - above).unsqueeze(1)
        return wide[:, :, above] * (1 - share) + wide[:, :, below] * share

    def _sources(self, size: int, count: int) -> Tensor:
        """Return the source position of each of `count` pixels: (count,), 0..size - 1, in pixels of `size`."""
        index = torch.arange(count, dtype=torch.float32)
        if self.align_corners:
            return index * ((size - 1) / (count - 1))
        return ((index + 0.5) * (size / count) - 0.5).clamp(0, size - 1)


Upsample = UpsamplePlain | UpsampleLines | UpsampleProducts
