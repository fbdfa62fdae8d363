"""Augmentation of images and masks: callables that turn a pair into tensors of a fixed size.

torchvision.transforms.v2 resizes masks without interpolation and images with it, because they are
`tv_tensors.Mask` and `tv_tensors.Image`. Random numbers come from torch's global generator.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from segnets.data.dataset import VOID, Pair
from segnets.data.loader import Augmentation
from segnets.preprocessing import Preprocess, Preprocessing
from segnets.resize_rules import parse_resize


class AugmentationConfig(Protocol):
    """Training options that control augmentation.

    Attributes:
        recipe: "torchvision" resizes the whole image and then crops it, as torchvision's reference does. Any other
            recipe crops first, which is faster, and draws scales evenly on a logarithmic scale.
        crop: Height and width of the result, in pixels.
        base_size: Short side of an image at scale 1, in pixels; 0 for the size that `resize` gives.
        resize: Rule for the size of images at the network's input, such as "520" or "x2" (`parse_resize`).
        scale: Smallest and largest scale.
        flip: Probability of a horizontal flip.
        colour: Strength of brightness and colour changes, 0..1; 0 for none.
        blur: Probability of blurring.
    """

    @property
    def recipe(self) -> str: ...  # noqa: D102
    @property
    def crop(self) -> int: ...  # noqa: D102
    @property
    def base_size(self) -> int: ...  # noqa: D102
    @property
    def resize(self) -> str: ...  # noqa: D102
    @property
    def scale(self) -> tuple[float, float]: ...  # noqa: D102
    @property
    def flip(self) -> float: ...  # noqa: D102
    @property
    def colour(self) -> float: ...  # noqa: D102
    @property
    def blur(self) -> float: ...  # noqa: D102


def training_augmentation(config: AugmentationConfig) -> Augmentation:
    """Build the augmentation of a recipe.

    Args:
        config: Augmentation options.

    Returns:
        Callable from a Pair to an image (K, crop, crop) and a mask (crop, crop), or planes (C, crop, crop), uint8. It
        can be pickled.

    Raises:
        ValueError: If `scale` is not a range of positive numbers, or a probability or strength is not in 0..1.

    Example:
        >>> augment = training_augmentation(TrainingConfig(data="camvid", model="lraspp_mobilenet_v3_small", out="run"))
        >>> image, mask = augment(data.read(data.samples("train")[0]))
    """
    _check(config)
    v2 = _v2()
    steps: list[Any] = []
    base = _BaseSize(config)
    if config.recipe == "torchvision":
        steps += [_RandomResize(base, config.scale), _PadIfSmaller(config.crop), v2.RandomCrop(config.crop)]
    else:
        steps.append(_ScaledCrop(config.crop, base, config.scale))
    if config.flip > 0:
        steps.append(v2.RandomHorizontalFlip(config.flip))
    if config.colour > 0:
        steps.append(_Colour(config.colour))
    if config.blur > 0:
        steps.append(_Blur(config.blur))
    return Transformed(v2.Compose(steps))


def _check(config: AugmentationConfig) -> None:
    smallest, largest = config.scale
    if not 0 < smallest <= largest:
        raise ValueError(f"scale={config.scale}: expected the smallest and the largest scale, both above 0")
    for name in ("flip", "colour", "blur"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)}: expected a number from 0 to 1")


class Transformed:
    """Augmentation by a torchvision.transforms.v2 transform, or a callable with the same signature.

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

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process that is not forked imports torchvision for the transform, and before that the function.
        return _transformed, (_compat().import_torchvision, self.transform)


def _transformed(_first: object, transform: Callable[[Any, Any], tuple[Any, Any]]) -> Transformed:
    return Transformed(transform)


class _PadIfSmaller:
    """Padding on the right and bottom to a minimum size: black for images, ignored for masks."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Any, mask: Any) -> tuple[Any, Any]:
        height, width = image.shape[-2:]
        padding = [0, 0, max(0, self.size - width), max(0, self.size - height)]
        if not any(padding):
            return image, mask
        functional = _v2().functional
        return functional.pad(image, padding, fill=0), functional.pad(mask, padding, fill=VOID)


class _BaseSize:
    """Size of an image at scale 1."""

    def __init__(self, config: AugmentationConfig) -> None:
        self.fixed = config.base_size
        self.rule = None if self.fixed else Preprocess(Preprocessing(**parse_resize(config.resize)))

    def short_side(self, height: int, width: int) -> int:
        """Return the short side of an image of this size at scale 1."""
        return self.fixed if self.rule is None else min(self.rule.output_size(height, width))

    def stretched(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the height and width at scale 1 if the rule changes the aspect ratio, else None."""
        if self.rule is None or self.rule.resize != "fixed":
            return None
        return self.rule.output_size(height, width)

    def factors(self, height: int, width: int) -> tuple[float, float]:
        """Return the factors of height and width at scale 1."""
        size = self.stretched(height, width)
        if size is not None:
            return size[0] / height, size[1] / width
        return (self.short_side(height, width) / min(height, width),) * 2


class _RandomResize:
    """Resize to a random short side, as in torchvision's reference. Both limits are inclusive."""

    def __init__(self, base: _BaseSize, scale: tuple[float, float]) -> None:
        self.base, self.scale = base, scale

    def __call__(self, image: Any, mask: Any) -> tuple[Any, Any]:
        base = self.base.short_side(*image.shape[-2:])
        smallest, largest = (max(1, int(base * factor)) for factor in self.scale)
        stretched = self.base.stretched(*image.shape[-2:])
        resized: tuple[Any, Any]
        if stretched is None:
            # RandomResize excludes its upper limit.
            resized = _v2().RandomResize(smallest, largest + 1)(image, mask)
            return resized
        short = int(torch.randint(smallest, largest + 1, ()))
        resized = _v2().Resize([max(1, round(side * short / base)) for side in stretched])(image, mask)
        return resized


class _ScaledCrop:
    """Random crop at a random scale.

    The region is cropped before it is resized, which is much faster than the reverse order.
    """

    def __init__(self, crop: int, base: _BaseSize, scale: tuple[float, float]) -> None:
        self.crop, self.base, self.scale = crop, base, scale
        self.pad = _PadIfSmaller(crop)

    def __call__(self, image: Any, mask: Any) -> tuple[Any, Any]:
        height, width = image.shape[-2:]
        smallest, largest = map(math.log, self.scale)
        scale = math.exp(_uniform(smallest, largest))
        factors = [scale * factor for factor in self.base.factors(height, width)]
        rows, columns = (
            max(1, min(size, round(self.crop / factor))) for size, factor in zip((height, width), factors, strict=True)
        )
        top, left = (int(_uniform(0, 1) * (size - part + 1)) for size, part in ((height, rows), (width, columns)))
        new = [
            max(1, min(self.crop, round(part * factor))) for part, factor in zip((rows, columns), factors, strict=True)
        ]
        functional, tensors = _v2().functional, _tv_tensors()
        part = functional.crop(image, top, left, rows, columns)
        ids = mask.as_subclass(Tensor)[..., top : top + rows, left : left + columns]
        # v2 resizes masks with torch's "nearest", which shifts them by up to half a pixel relative to the image.
        ids = F.interpolate(ids.reshape(1, -1, rows, columns), new, mode="nearest-exact").reshape(*ids.shape[:-2], *new)
        return self.pad(functional.resize(part, new, antialias=True), tensors.Mask(ids))


class _Colour:
    """Random gamma, brightness, contrast, saturation and channel gains.

    All but gamma are one linear map of the channels. Hue is left out: its conversion takes longer than all the others.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def __call__(self, image: Any, mask: Any) -> tuple[Any, Any]:
        strength, channels = self.strength, image.shape[0]
        table = (torch.arange(256) / 255) ** (2.0 ** _uniform(-strength, strength))
        values = image.as_subclass(Tensor).reshape(-1).int()
        pixels = (255 * table).index_select(0, values).view(channels, -1)  # indexing would take four times as long
        brightness, contrast, saturation = (_uniform(1 - strength, 1 + strength) for _ in range(3))
        gains = 1 + (torch.rand(channels) - 0.5) * strength / 2
        weights = torch.tensor(_LUMA) if channels == 3 else torch.full((channels,), 1 / channels)
        gray = torch.outer(torch.ones(channels), weights)
        mix = saturation * torch.eye(channels) + (1 - saturation) * gray if channels == 3 else torch.eye(channels)
        mean = float(weights @ pixels.mean(1))
        matrix = gains[:, None] * mix * (brightness * contrast)
        flat = torch.addmm(gains[:, None] * (brightness * (1 - contrast) * mean), matrix, pixels)
        coloured = flat.clamp_(0, 255).round_().to(torch.uint8).view(image.shape)
        return _tv_tensors().Image(coloured), mask


class _Blur:
    """Gaussian blur with a random sigma, applied to some images.

    It equals `v2.GaussianBlur(5, (0.1, 2.0))` up to rounding. As two passes of five pixels, it is six times as fast.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Any, mask: Any) -> tuple[Any, Any]:
        if _uniform(0, 1) >= self.probability:
            return image, mask
        sigma = _uniform(0.1, 2.0)
        weights = torch.softmax(-((torch.arange(5) - 2) ** 2) / (2 * sigma**2), 0).tolist()
        # Reflection needs three pixels.
        mode = "reflect" if min(image.shape[-2:]) > 2 else "replicate"
        pixels = F.pad(image.as_subclass(Tensor).float()[None], (2, 2, 2, 2), mode=mode)[0]
        for dimension in (1, 2):
            size = image.shape[dimension]
            parts = [pixels.narrow(dimension, start, size) for start in range(5)]
            pixels = parts[0] * weights[0]
            for part, weight in zip(parts[1:], weights[1:], strict=True):
                pixels.add_(part, alpha=weight)
        return _tv_tensors().Image(pixels.round_().to(torch.uint8)), mask


_LUMA = (0.299, 0.587, 0.114)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _compat() -> Any:
    return importlib.import_module("segnets.torchvision_compat")


def _v2() -> Any:
    _compat()
    return importlib.import_module("torchvision.transforms.v2")


def _tv_tensors() -> Any:
    _compat()
    return importlib.import_module("torchvision.tv_tensors")
