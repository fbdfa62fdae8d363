"""From an image to its mask: preprocessing, network, scores at the image's size, best class.

One piece of code in the subset of Python that TorchScript compiles. Python runs it eagerly; an exported file carries
it, so C++ runs it too; that's why all three give the same mask.

Shapes: N batch, C classes, H W the image, h w the network's input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnets.preprocessing import Preprocess, Preprocessing, check_input

# Scores at the image's size are made for at most this many values at once (256 MiB of float32):
# 21 classes of a 12000x12000 photograph would be 12 GB.
MAX_LOGITS = 1 << 26


class Segmenter(nn.Module):
    """A segmentation model together with its preprocessing. Scriptable; put it in eval mode before use.

    model: returns a dictionary whose "out" is (N, C, h, w) for an input (N, 3, h, w).
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.image_to_input = Preprocess(preprocessing)

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel for every class.

        image: (N, 3, h, w) floating point, normalised; any N, h, w >= 1.
        Returns (N, C, h, w) logits, not probabilities. Raises ImageError.
        """
        check_input(image)
        scores: Tensor = self.model(image)["out"]
        return scores

    @torch.jit.export
    def preprocess(self, image: Tensor) -> Tensor:
        """Turn (N, H, W, 3) uint8 RGB into (N, 3, h, w) float32. Raises ImageError."""
        result: Tensor = self.image_to_input(image)
        return result

    @torch.jit.export
    def segment(self, image: Tensor) -> Tensor:
        """Give every pixel the id of its best class.

        image: (N, H, W, 3) uint8, RGB, 0..255.
        Returns (N, H, W), uint8, or int16 when there are more than 256 classes. Raises ImageError.
        """
        logits = self.forward(self.preprocess(image))
        return logits_to_mask(logits, image.shape[1], image.shape[2])


def logits_to_mask(logits: Tensor, height: int, width: int, max_logits: int = MAX_LOGITS) -> Tensor:
    """Resize scores to the image's size and take the best class; of equal scores the lowest class wins.

    logits: (N, C, h, w). max_logits: values at the image's size to hold at once.
    Returns (N, height, width), uint8, or int16 when C > 256. Scriptable.
    """
    classes = logits.shape[1]
    group = max(1, max_logits // (logits.shape[0] * height * width))
    # A few classes at a time bounds the memory; the best of the groups is the best of all.
    best, mask = logits_at(logits[:, :group], height, width).max(dim=1)
    for start in range(group, classes, group):
        score, index = logits_at(logits[:, start : start + group], height, width).max(dim=1)
        better = score > best
        best = torch.where(better, score, best)
        mask = torch.where(better, index + start, mask)
    return mask.to(torch.uint8 if classes <= 256 else torch.int16)


def logits_at(logits: Tensor, height: int, width: int) -> Tensor:
    """Resize (N, C, h, w) scores to (N, C, height, width), bilinear, without aligned corners. Scriptable."""
    if logits.shape[2] == height and logits.shape[3] == width:
        return logits
    return F.interpolate(logits.contiguous(), size=[height, width], mode="bilinear", align_corners=False)


def segment(model: nn.Module, image: Tensor, preprocessing: Preprocessing | None = None) -> Tensor:
    """Segment a batch of images with a model in eval mode, without gradients.

    image: (N, H, W, 3) uint8, RGB, on the model's device.
    preprocessing: torchvision's segmentation preset when not given.
    Returns the mask as `Segmenter.segment`. Raises ImageError, and ValueError if the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout is active; call model.eval() first")
    with torch.inference_mode():
        return Segmenter(model, preprocessing or Preprocessing()).eval().segment(image)
