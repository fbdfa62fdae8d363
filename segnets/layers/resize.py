"""Bilinear resizing of feature maps and scores, as every network here does it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_bilinear(x: Tensor, size: list[int]) -> Tensor:
    """Resize (N, C, h, w) to (N, C, size[0], size[1]).

    Corners are not aligned (align_corners=False) and nothing is smoothed before shrinking (no antialias):
    torchvision's rule for segmentation models.
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
