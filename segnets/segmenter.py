"""Segment an image: preprocessing, network, resizing the logits to the image, argmax.

The code stays in the subset of Python that TorchScript compiles. Python runs it eagerly, and exported files contain it,
so Python, exported files and C++ give the same mask.

Shapes: N batch, C classes, H W the image, h w the network's input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnets.preprocessing import Preprocess, Preprocessing, check_input

# Largest number of logits to hold at the image's size (256 MiB of float32). Without a limit, 21 classes of a
# 12000x12000 image would take 12 GB.
MAX_LOGITS = 1 << 26


class Segmenter(nn.Module):
    """Segmentation model together with its preprocessing. Scriptable. Must be in eval mode.

    Args:
        model: Network that maps (N, 3, h, w) to a dictionary with logits "out" of shape (N, C, h, w).
        preprocessing: Preprocessing from an image to the network's input.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.image_to_input = Preprocess(preprocessing)

    def forward(self, image: Tensor) -> Tensor:
        """Compute class logits for every pixel of the network's input.

        Args:
            image: Batch of shape (N, 3, h, w), floating point, normalised; any N, h, w >= 1.

        Returns:
            Logits (not probabilities) of shape (N, C, h, w).

        Raises:
            ImageError: If `image` has another shape or dtype.
        """
        check_input(image)
        logits: Tensor = self.model(image)["out"]
        return logits

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """Convert images to the network's input.

        Args:
            image: Batch of shape (N, H, W, 3), uint8, RGB, 0..255.

        Returns:
            The network's input of shape (N, 3, h, w), float32.

        Raises:
            ImageError: If `image` has another shape or dtype, or would become too large.
        """
        result: Tensor = self.image_to_input(image)
        return result

    @torch.jit.export
    def segment(self, image: Tensor) -> Tensor:
        """Compute a mask of class ids.

        Args:
            image: Batch of shape (N, H, W, 3), uint8, RGB, 0..255.

        Returns:
            Mask of shape (N, H, W), uint8, or int16 for more than 256 classes.

        Raises:
            ImageError: If `image` has another shape or dtype, or would become too large.
        """
        logits = self.forward(self.preprocess(image))
        return logits_to_mask(logits, image.shape[1], image.shape[2])


def logits_to_mask(logits: Tensor, height: int, width: int, max_logits: int = MAX_LOGITS) -> Tensor:
    """Resize logits to the image and take the argmax over the classes. Scriptable.

    Ties give the lowest class id.

    Args:
        logits: Logits of shape (N, C, h, w).
        height: Height of the image.
        width: Width of the image.
        max_logits: Largest number of logits to hold at the image's size, at least one class.

    Returns:
        Mask of shape (N, height, width), uint8, or int16 if C > 256.
    """
    classes = logits.shape[1]
    group = max(1, max_logits // (logits.shape[0] * height * width))
    # Process a group of classes at a time to bound the memory. The maximum over groups is the maximum over classes.
    best, mask = logits_at(logits[:, :group], height, width).max(dim=1)
    for start in range(group, classes, group):
        values, index = logits_at(logits[:, start : start + group], height, width).max(dim=1)
        better = values > best
        best = torch.where(better, values, best)
        mask = torch.where(better, index + start, mask)
    return mask.to(torch.uint8 if classes <= 256 else torch.int16)


def logits_at(logits: Tensor, height: int, width: int) -> Tensor:
    """Resize logits (N, C, h, w) to (N, C, height, width), bilinear with align_corners=False. Scriptable."""
    if logits.shape[2] == height and logits.shape[3] == width:
        return logits
    return F.interpolate(logits.contiguous(), size=[height, width], mode="bilinear", align_corners=False)


def segment(model: nn.Module, image: Tensor, preprocessing: Preprocessing | None = None) -> Tensor:
    """Segment a batch of images, without gradients.

    Args:
        model: Network in eval mode that maps (N, 3, h, w) to a dictionary with logits "out" of shape (N, C, h, w).
        image: Batch of shape (N, H, W, 3), uint8, RGB, 0..255, on the model's device.
        preprocessing: Preprocessing of the images; None means that of torchvision's segmentation weights.

    Returns:
        Mask of class ids of shape (N, H, W), uint8, or int16 for more than 256 classes.

    Raises:
        ImageError: If `image` has another shape or dtype, or would become too large.
        ValueError: If the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout is active; call model.eval() first")
    with torch.inference_mode():
        return Segmenter(model, preprocessing or Preprocessing()).eval().segment(image)
