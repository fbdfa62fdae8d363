"""Preprocessing from a uint8 image to the network's input, as data (`Preprocessing`) and as code (`Preprocess`).

The code stays in the subset of Python that TorchScript compiles, so that Python, exported files and C++ run the same
code. It behaves like torchvision.transforms._presets.SemanticSegmentation on uint8 tensors, bit for bit: resize (in
float, rounded back to uint8), scale to 0..1, subtract the mean, divide by the standard deviation.

Shapes: N batch, C channels of the image, H W the image, h w the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnets.errors import ImageError
from segnets.memory import check_batch_fits
from segnets.resize_rules import RESIZE_RULES, checked_size, scaled_side

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CHANNEL_ORDERS = ("RGB", "BGR")
MAX_CHANNELS = 1024

_MOST = 3.0  # above any mean or std for pixels of 0..1, below those for pixels of 0..255

# Resizing the short side of a 1x300 image to 520 would give 81 million pixels and exhaust the memory.
MAX_ENLARGED_PIXELS = 1 << 24
# A factor multiplies the pixels of every image by the same number, so more are allowed: a photograph of 33 megapixels,
# enlarged twice. Before that, callers check whether they fit into memory (`check_batch`).
MAX_SCALED_PIXELS = 1 << 27


@dataclass(frozen=True)
class Preprocessing:
    """Parameters of the preprocessing. The defaults are those of torchvision's published segmentation weights.

    Attributes:
        resize: "short_side" resizes the shorter side to `size` and keeps the aspect ratio (the longer side is rounded
            down); "fixed" resizes every image to `size`; "scale" multiplies both sides by `size` (`scaled_side`);
            "none" keeps the size.
        size: Pixels for "short_side" (None means 520), (height, width) for "fixed", a factor from 0.1 to 10 for
            "scale", None for "none".
        interpolation: "bilinear", "bicubic" or "nearest".
        antialias: Whether to apply a low-pass filter when shrinking. Must be False for "nearest".
        mean: Mean of each channel scaled to 0..1, in the network's channel order. Its length is the number of channels
            of the images: 3 for colour, 1 for gray, another number for images of several bands.
        std: Standard deviation of each channel scaled to 0..1, in the network's channel order, above 0.
        channel_order: The network's channel order, "RGB" or "BGR". Colour images are always given as RGB; other images
            have no order, and this is "RGB".

    Raises:
        ValueError: If a value is not allowed, or contradicts another.
    """

    resize: str = "short_side"
    size: int | float | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: str = "RGB"

    def __post_init__(self) -> None:
        self._check()
        _refuse_scale_of_bytes(self.mean, self.std)

    def _check(self) -> None:
        _check_choice("resize", self.resize, RESIZE_RULES)
        _check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        _check_choice("channel_order", self.channel_order, CHANNEL_ORDERS)
        if not isinstance(self.antialias, bool):
            raise ValueError(f"antialias={self.antialias!r}: expected True or False")
        if self.antialias and self.interpolation == "nearest":
            raise ValueError("antialias=True is not possible with interpolation='nearest'; pass antialias=False")
        object.__setattr__(self, "size", checked_size(self.resize, self.size))
        object.__setattr__(self, "mean", _numbers("mean", self.mean))
        object.__setattr__(self, "std", _numbers("std", self.std))
        if min(self.std) < 1e-6:
            raise ValueError(f"std={self.std}: expected numbers above 0")
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std have {len(self.mean)} and {len(self.std)} numbers: expected one of each per channel"
            )
        if self.channel_order == "BGR" and self.channels != 3:
            raise ValueError(f"channel_order='BGR' is for 3 channels, but mean has {self.channels}; omit channel_order")

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.mean)

    @property
    def format_version(self) -> int:
        """Format version of files with this preprocessing: 2 for "scale", which older versions refuse, else 1."""
        return 2 if self.resize == "scale" else 1

    def describe(self) -> str:
        """Return the preprocessing in words, for reports."""
        mean, std = (",".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return f"{self.describe_resize()}, mean {mean}, std {std}, {self.channel_order}"

    def describe_resize(self) -> str:
        """Return the resize rule in words."""
        if isinstance(self.size, tuple):
            return f"resized to {self.size[0]}x{self.size[1]}"
        if self.resize == "scale":
            return f"scaled by {self.size:g}"
        return "not resized" if self.resize == "none" else f"short side resized to {self.size}"

    def to_json(self) -> dict[str, object]:
        """Return the fields as JSON values, which `from_json` reads back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, obj: object) -> Preprocessing:
        """Build a Preprocessing from the result of `to_json`.

        Args:
            obj: A mapping with exactly the fields of Preprocessing.

        Returns:
            The preprocessing.

        Raises:
            ValueError: If a field is missing or unknown, or has a value that is not allowed.
        """
        if not isinstance(obj, Mapping):
            raise ValueError(f"preprocessing: expected an object with the fields of Preprocessing, got {obj!r}")
        known = [field.name for field in fields(cls)]
        missing = [name for name in known if name not in obj]
        unknown = [str(name) for name in obj if name not in known]
        if missing or unknown:
            raise ValueError(f"preprocessing: missing fields {missing}, unknown fields {unknown}; expected {known}")
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in obj.items()}
        # Files written before a mean above 1 was refused must still load.
        preprocessing = object.__new__(cls)
        for name, value in values.items():
            object.__setattr__(preprocessing, name, value)
        preprocessing._check()
        return preprocessing


class Preprocess(nn.Module):
    """Module that applies a `Preprocessing` to images. Scriptable; has no parameters or buffers.

    Args:
        preprocessing: The parameters.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.resize: str = preprocessing.resize
        size = preprocessing.size
        # TorchScript needs one type per attribute. The zeros are never used.
        self.short_side: int = size if isinstance(size, int) else 0
        self.fixed_height, self.fixed_width = size if isinstance(size, tuple) else (0, 0)
        self.scale: float = size if isinstance(size, float) else 0.0
        self.described: str = preprocessing.describe_resize()  # TorchScript writes 2.0 as "2."
        self.interpolation: str = preprocessing.interpolation
        self.antialias: bool = preprocessing.antialias
        self.mean = [float(value) for value in preprocessing.mean]
        self.std = [float(value) for value in preprocessing.std]
        self.channels: int = preprocessing.channels
        self.swap_channels: bool = preprocessing.channel_order == "BGR"
        self.max_enlarged_pixels: int = MAX_ENLARGED_PIXELS
        self.max_scaled_pixels: int = MAX_SCALED_PIXELS

    def forward(self, image: Tensor) -> Tensor:
        """Resize and normalise a batch of images.

        Args:
            image: Batch of shape (N, H, W, C), uint8, 0..255, RGB for three channels; any N, H, W >= 1.

        Returns:
            The network's input of shape (N, C, h, w), float32, contiguous, on the image's device.

        Raises:
            ImageError: If `image` has the wrong shape or dtype, or would become too large. TorchScript raises
                torch.jit.Error with the same message.
        """
        check_image(image, self.channels)
        if self.swap_channels:
            image = image.flip(3)
        values = image.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)  # (N, C, H, W)
        height, width = self.output_size(values.shape[2], values.shape[3])
        if height != values.shape[2] or width != values.shape[3]:
            values = self.resized(values, height, width)
        # In place: at this size, allocating memory takes longer than the arithmetic.
        values.div_(255.0)
        return values.sub_(_per_channel(self.mean, image.device)).div_(_per_channel(self.std, image.device))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image of `height` x `width` pixels is resized to.

        Raises:
            ImageError: If the resized image would be too large.
        """
        if self.resize == "fixed":
            return self.fixed_height, self.fixed_width
        if self.resize == "none":
            return height, width
        if self.resize == "scale":
            new_height, new_width = scaled_side(height, self.scale), scaled_side(width, self.scale)
            if new_height * new_width > max(self.max_scaled_pixels, height * width):
                reject_image(
                    f"image: {height}x{width} {self.described} would be {new_height}x{new_width}, too large to "
                    "segment at once; segment it in tiles (--tile 1024), or with a smaller factor (--resize x1)"
                )
            return new_height, new_width
        short_side = self.short_side
        # Keep torchvision's order of operations: it decides how the long side is rounded.
        long_side = int(short_side * max(height, width) / min(height, width))
        if short_side * long_side > max(self.max_enlarged_pixels, height * width):
            reject_image(
                f"image: {height}x{width} with its short side resized to {short_side} would be "
                f"{short_side}x{long_side}, too large to segment; crop or pad it to a less extreme aspect "
                "ratio, or keep its size (--resize none)"
            )
        return (short_side, long_side) if height <= width else (long_side, short_side)

    def resized(self, values: Tensor, height: int, width: int) -> Tensor:
        """Resize pixels (N, C, H, W) float32, 0..255, to (N, C, height, width), rounded half to even as for uint8."""
        if self.interpolation == "nearest":
            return F.interpolate(values, size=[height, width], mode="nearest")
        values = F.interpolate(
            values, size=[height, width], mode=self.interpolation, align_corners=False, antialias=self.antialias
        )
        # Only bicubic can exceed 0..255.
        return values.clamp_(0.0, 255.0).round_()


def parse_numbers(text: str) -> tuple[float, ...]:
    """Parse numbers separated by commas.

    Raises:
        ValueError: If a part is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("expected one number per channel, for example 0.485,0.456,0.406") from None


def preprocess(image: Tensor, preprocessing: Preprocessing | None = None) -> Tensor:
    """Convert a batch of images to the network's input.

    Args:
        image: Batch of shape (N, H, W, C), uint8, 0..255, RGB for three channels. `preprocessing` has C means.
        preprocessing: The parameters; None means those of torchvision's segmentation weights.

    Returns:
        The network's input of shape (N, C, h, w), float32, on the image's device.

    Raises:
        ImageError: If `image` is not a tensor, has the wrong shape or dtype, or would become too large.
    """
    if not isinstance(image, Tensor):
        raise ImageError(
            f"image: expected a torch.Tensor, uint8 (N, H, W, 3) RGB, got {type(image).__name__}; "
            "convert an (H, W, 3) array with torch.from_numpy(array)[None]"
        )
    prepare = Preprocess(preprocessing or Preprocessing())
    check_batch(image, prepare)
    result: Tensor = prepare(image)
    return result


def check_batch(image: Tensor, prepare: Preprocess, classes: int = 0) -> None:
    """Check an image batch before any work: its shape and dtype, and that its results fit into the CPU's memory.

    Args:
        image: Batch of shape (N, H, W, C), uint8.
        prepare: Preprocessing of the batch.
        classes: Number of channels of the logits, which are as large as the network's input.

    Raises:
        ImageError: If it is not an image batch, or if it, its resized form or its logits are too large.
    """
    check_image(image, prepare.channels)
    count, height, width, _ = image.shape
    resized = prepare.output_size(height, width)
    if image.device.type == "cpu":
        check_batch_fits(count, *resized, prepare.channels + classes)
        check_batch_fits(count, height, width, prepare.channels, "as given")


def _per_channel(values: list[float], device: torch.device) -> Tensor:
    """Return one number per channel, (C, 1, 1) float32. Scriptable."""
    # In TorchScript, torch.tensor rounds numbers to the caller's default dtype first, and torch.full does not.
    return torch.stack([torch.full([1, 1], value, dtype=torch.float32, device=device) for value in values])


def check_image(image: Tensor, channels: int = 3) -> None:
    """Check that `image` is an image batch. Scriptable.

    Args:
        image: Expected to be uint8 of shape (N, H, W, C) with N, H, W >= 1.
        channels: Number of channels, C.

    Raises:
        ImageError: If it is not an image batch.
    """
    kind = " RGB" if channels == 3 else (" gray" if channels == 1 else "")
    expected = f"image: expected uint8 (N, H, W, {channels}){kind} with values 0..255"
    if image.dtype != torch.uint8:
        # TorchScript represents a dtype as a number.
        if torch.jit.is_scripting():
            reject_image(f"{expected}, got a different dtype")
        else:
            reject_image(f"{expected}, got {image.dtype}; convert with image.to(torch.uint8) if its values are 0..255")
    shape = list(image.shape)
    if channels == 1 and (len(shape) == 2 or (len(shape) == 3 and shape[2] != 1)):
        reject_image(f"{expected}, got the {len(shape)}-D shape {shape}; image.view(-1, H, W, 1) adds the dimensions")
    if len(shape) == 3:
        reject_image(f"{expected}, got the 3-D shape {shape}; add the batch dimension with image[None]")
    if len(shape) != 4:
        reject_image(f"{expected}, got the {len(shape)}-D shape {shape}")
    if shape[3] != channels and shape[1] == channels:
        reject_image(f"{expected}, got {shape}, which looks like (N, {channels}, H, W); use image.permute(0, 2, 3, 1)")
    if shape[3] != channels:
        advice = "RGB" if channels == 3 else ("gray" if channels == 1 else "the network's channels")
        reject_image(f"{expected}, got {shape} with {shape[3]} channels; convert the image to {advice}")
    if shape[0] < 1 or shape[1] < 1 or shape[2] < 1:
        reject_image(f"{expected}, got {shape}, which holds no pixels")


def check_input(image: Tensor, channels: int = 3) -> None:
    """Check that `image` is an input for `forward` of an exported model. Scriptable.

    Args:
        image: Expected to be floating point of shape (N, C, H, W) with N, H, W >= 1, already normalised.
        channels: Number of channels, C.

    Raises:
        ImageError: If it is not a network input.
    """
    expected = f"input: expected normalised floating point (N, {channels}, H, W)"
    if not image.is_floating_point():
        reject_image(f"{expected}, got integers; segment() takes uint8 images, preprocess() normalises them")
    shape = list(image.shape)
    if len(shape) != 4:
        reject_image(f"{expected}, got the {len(shape)}-D shape {shape}")
    if shape[1] != channels:
        reject_image(f"{expected}, got {shape} with {shape[1]} channels")
    if shape[0] < 1 or shape[2] < 1 or shape[3] < 1:
        reject_image(f"{expected}, got {shape}, which holds no pixels")


def reject_image(message: str) -> None:
    """Raise ImageError, or ValueError in TorchScript, which only supports built-in exceptions.

    Raises:
        ImageError: Always.
    """
    if torch.jit.is_scripting():
        raise ValueError(message)
    raise ImageError(message)


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


def _refuse_scale_of_bytes(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse numbers for pixels of 0..255. On the scale 0..1 no mean of an image exceeds 1."""
    if max(*mean, *std) <= _MOST:
        return
    # One of the two may already be on the scale 0..1.
    scaled = [", ".join(f"{v / 255 if max(each) >= 1 else v:.6g}" for v in each) for each in (mean, std)]
    raise ValueError(
        f"mean={tuple(mean)}, std={tuple(std)}: these are for pixels of 0..255, but pixels are scaled to 0..1 first. "
        f"Divided by 255: mean=({scaled[0]}), std=({scaled[1]})"
    )


def _numbers(name: str, values: object) -> tuple[float, ...]:
    if not isinstance(values, (tuple, list)) or not 1 <= len(values) <= MAX_CHANNELS:
        raise ValueError(f"{name}={values!r}: expected numbers, one per channel")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name}={values!r}: expected finite numbers, one per channel")
    return tuple(float(value) for value in values)
