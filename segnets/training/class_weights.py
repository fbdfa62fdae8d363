"""Class weights for the loss, computed from class frequencies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segnets.errors import TrainingError
from segnets.training.metrics import VOID


@dataclass(frozen=True)
class ClassFrequencies:
    """Pixel counts of each class in a split.

    Attributes:
        pixels: Number of pixels of each class, (C,), int64.
        pixels_of_images: Number of valid pixels in all images that contain the class, (C,), int64.
    """

    pixels: npt.NDArray[np.int64]
    pixels_of_images: npt.NDArray[np.int64]


def class_frequencies(masks: Iterable[npt.NDArray[np.integer[Any]]], num_classes: int) -> ClassFrequencies:
    """Count the pixels of each class in masks.

    Args:
        masks: Masks of ids 0..C-1 and 255, each (H, W), or planes of 0, 1 and 255, each (C, H, W).
        num_classes: Number of classes C.
    """
    pixels = np.zeros(num_classes, dtype=np.int64)
    of_images = np.zeros(num_classes, dtype=np.int64)
    for mask in masks:
        valid = mask != VOID
        if mask.ndim == 3:
            found, total = (mask == 1).sum(axis=(1, 2)), valid.any(axis=0).sum()
        else:
            found, total = np.bincount(mask[valid], minlength=num_classes), valid.sum()
        pixels += found
        of_images += np.where(found > 0, total, 0)
    return ClassFrequencies(pixels, of_images)


def class_weights_of(
    choice: str | Sequence[float], frequencies: ClassFrequencies | None, num_classes: int
) -> Tensor | None:
    """Return the weight of each class.

    Args:
        choice: "none"; "enet" for 1 / ln(1.02 + share of the pixels), https://arxiv.org/abs/1606.02147; "median" for
            the median of all classes' frequencies divided by the class's own, https://arxiv.org/abs/1411.4734, where a
            frequency is the share of the pixels in the images that contain the class; or one number per class.
        frequencies: Counts of the training split, for "enet" and "median".
        num_classes: Number of classes C.

    Returns:
        Weights of shape (C,), float32, or None for equal weights. With "median", a class that never occurs gets 0.

    Raises:
        TrainingError: If a list does not have C numbers.
    """
    if choice == "none":
        return None
    if not isinstance(choice, str):
        if len(choice) != num_classes:
            raise TrainingError(f"class_weights: {len(choice)} numbers for {num_classes} classes; give one for each")
        return torch.tensor(choice, dtype=torch.float32)
    assert frequencies is not None
    pixels = frequencies.pixels.astype(np.float64)
    if choice == "enet":
        weights = 1 / np.log(1.02 + pixels / max(1, pixels.sum()))
    else:
        share = pixels / np.maximum(frequencies.pixels_of_images, 1)
        median = np.median(share[pixels > 0]) if pixels.any() else 1.0
        weights = np.where(pixels > 0, median / np.maximum(share, 1e-12), 0.0)
    return torch.from_numpy(weights.astype(np.float32))
