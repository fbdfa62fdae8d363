"""Bilinear resizing of feature maps and logits, shared by all networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize_bilinear(x: Tensor, size: list[int], align_corners: bool = False) -> Tensor:
    """Resize a feature map bilinearly, without antialiasing.

    Args:
        x: Feature map of shape (N, C, h, w).
        size: Height and width of the result.
        align_corners: Whether the centres of the corner pixels are aligned (segmentation_models_pytorch, some networks
            of mmsegmentation) or the corners of the images (torchvision).

    Returns:
        Feature map of shape (N, C, size[0], size[1]).
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
