"""Augmentation of images with their masks: callables from a pair to tensors of a fixed size.

torchvision.transforms.v2 resizes masks without interpolation and images with it, because they are
`tv_tensors.Mask` and `tv_tensors.Image`. Random numbers come from torch's global generator.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from segnets.data.dataset import VOID, Pair
from segnets.data.loader import Augmentation


class AugmentationConfig(Protocol):
    """The options of a training that concern augmentation.

    Attributes:
        recipe: "torchvision" resizes the whole image and crops it then, as torchvision's reference does. Any other
            recipe crops first, which is faster.
        crop: Height and width of the result.
        base_size: Short side of an image at scale 1.
        scale: Smallest and largest scale.
        flip: Probability of mirroring.
        colour: Strength of the changes of brightness, contrast, saturation and hue, 0..1; 0 for none.
        blur: Probability of blurring.
    """

    @property
    def recipe(self) -> str: ...  # noqa: D102
    @property
    def crop(self) -> int: ...  # noqa: D102
    @property
    def base_size(self) -> int: ...  # noqa: D102
    @property
    def scale(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def flip(self) -> float: ...  # noqa: D102
    @property
    def colour(self) -> float: ...  # noqa: D102
    @property
    def blur(self) -> float: ...  # noqa: D102


def training_augmentation(config: AugmentationConfig) -> Augmentation:
    """Return the augmentation of a recipe.

    Args:
        config: Options.

    Returns:
        Callable from a Pair to an image (K, crop, crop) and a mask (crop, crop), both uint8. It can be pickled.
    """
    v2 = _v2()
    smallest, largest = (int(config.base_size * factor) for factor in config.scale)
    steps: list[nn.Module] = [v2.RandomResize(smallest, largest)]
    if config.flip > 0:
        steps.append(v2.RandomHorizontalFlip(config.flip))
    steps += [_PadIfSmaller(config.crop), v2.RandomCrop(config.crop)]
    return Transformed(v2.Compose(steps))


class Transformed:
    """Augmentation by a transform of torchvision.transforms.v2, or by any callable of this form.

    Args:
        transform: Callable (tv_tensors.Image (K, H, W), tv_tensors.Mask (H, W)) -> (image, mask), uint8.
    """

    def __init__(self, transform: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        self.transform = transform

    def __call__(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """Return the image (K, h, w) and the mask (h, w), uint8."""
        tensors = _tv_tensors()
        image = tensors.Image(torch.from_numpy(pair.image).permute(2, 0, 1))
        mask = tensors.Mask(torch.from_numpy(pair.mask))
        image, mask = self.transform(image, mask)
        return image.as_subclass(Tensor).contiguous(), mask.as_subclass(Tensor).contiguous()


class _PadIfSmaller(nn.Module):
    """Padding on the right and below to at least a size: black for images, ignored for masks."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Any, mask: Any) -> tuple[Any, Any]:
        height, width = image.shape[-2:]
        padding = [0, 0, max(0, self.size - width), max(0, self.size - height)]
        if not any(padding):
            return image, mask
        functional = _v2().functional
        return functional.pad(image, padding, fill=0), functional.pad(mask, padding, fill=VOID)


def _v2() -> Any:
    importlib.import_module("segnets.torchvision_compat")
    return importlib.import_module("torchvision.transforms.v2")


def _tv_tensors() -> Any:
    importlib.import_module("segnets.torchvision_compat")
    return importlib.import_module("torchvision.tv_tensors")
