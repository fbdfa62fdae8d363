"""Decoding of images: files, Pillow images and NumPy arrays to pixels.

Pillow is imported when first used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segnets.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

    ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]

# Pillow's modes with 8 bits or less in each channel. Colours and gray values are converted, transparency is dropped.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_TARGETS = {1: "L", 3: "RGB"}


def image_pixels(image: ImageLike, channels: int = 3) -> npt.NDArray[np.uint8]:
    """Return the pixels of one image as it is displayed: an EXIF orientation is applied.

    Args:
        image: Path of an image file, Pillow image, or array (H, W, channels) uint8, RGB. A gray image and an array
            (H, W) are repeated in all three channels.
        channels: Number of channels of the result. For 3 and 1, colours and gray values are converted and transparency
            is dropped. Any other number must be that of the image, whose channels are taken as they are.

    Returns:
        Pixels of shape (H, W, channels), uint8, contiguous; RGB for 3, gray for 1.

    Raises:
        ImageError: If the image can't be read, or has other channels or values than 0..255.
    """
    if isinstance(image, np.ndarray):
        return _checked_array(image, channels)
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(image, Image.Image):
        return _converted(ImageOps.exif_transpose(image), "image", channels)
    if not isinstance(image, str | os.PathLike):
        raise ImageError(
            f"image: expected a path, a Pillow image, an array (H, W, {channels}) uint8 or a tensor "
            f"(N, H, W, {channels}) uint8, got {type(image).__name__}"
        )
    path = Path(image)
    try:
        with Image.open(path) as opened:
            # Pillow reduces 16 bits per colour channel to 8 without telling; the decoder's mode shows it.
            if any(";16" in str(tile[3]) for tile in getattr(opened, "tile", ())):
                raise ImageError(_too_deep(str(path), "16 bits per channel", channels))
            return _converted(ImageOps.exif_transpose(opened), str(path), channels)
    except ImageError:  # which is a ValueError
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image that Pillow can read") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImageError(f"{path}: can't be read as an image: {reason}") from None


def _checked_array(image: npt.NDArray[Any], channels: int) -> npt.NDArray[np.uint8]:
    expected = f"image: expected an array (H, W, {channels}) uint8, 0..255"
    if image.dtype != np.uint8:
        raise ImageError(f"{expected}, got {image.dtype}; convert with image.astype(np.uint8) if its values are 0..255")
    if image.ndim == 2 and channels in _TARGETS:
        image = np.repeat(image[:, :, None], channels, axis=2)
    if image.ndim != 3 or image.shape[2] != channels or not image.size:
        raise ImageError(f"{expected}, got the shape {image.shape}{_advice(image.shape, channels)}")
    return np.ascontiguousarray(image)


def _advice(shape: tuple[int, ...], channels: int) -> str:
    """Return what makes an image of an array with this shape, or ""."""
    if len(shape) == 4:
        return "; pass one image at a time, or a batch as a tensor (torch.from_numpy)"
    if len(shape) == 3 and shape[0] == channels != shape[2]:
        return "; move the channels last with image.transpose(1, 2, 0)"
    if len(shape) == 3 and (channels, shape[2]) == (3, 4):
        return "; drop the transparency with image[:, :, :3]"
    return ""


def _converted(image: Image.Image, name: str, channels: int) -> npt.NDArray[np.uint8]:
    if image.mode not in _MODES:
        raise ImageError(_too_deep(name, f"mode {image.mode!r}", channels))
    if channels in _TARGETS:
        return np.array(image.convert(_TARGETS[channels])).reshape(image.height, image.width, channels)
    if image.mode == "PA" or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    bands = len(image.getbands())
    if bands != channels:
        raise ImageError(
            f"{name}: has {bands} channels, and the network reads {channels}; pass an array (H, W, {channels}) uint8"
        )
    return np.array(image)


def _too_deep(name: str, what: str, channels: int) -> str:
    return (
        f"{name}: an image with {what}, expected 8 bits; scale it to 0..255, and save it or pass an array "
        f"(H, W, {channels}) uint8"
    )
