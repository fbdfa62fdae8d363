"""Bilinear resizing of feature maps and scores, as every network here does it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_bilinear(x: Tensor, size: list[int], align_corners: bool = False) -> Tensor:
    """Resize (N, C, h, w) to (N, C, size[0], size[1]), with nothing smoothed before shrinking (no antialias).

    align_corners: whether the corner pixels' centres keep their place (segmentation_models_pytorch, some networks of
    mmsegmentation), or the corners of the image do (torchvision).
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
