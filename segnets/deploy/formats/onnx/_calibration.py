"""Images of a folder, prepared for the calibration of an int8 network and for measuring its cost."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segnets.deploy._reason import reason_of
from segnets.errors import ExportError, SegnetsError
from segnets.preprocessing import Preprocess

# More images take long and change the ranges little.
MAX_IMAGES = 128
_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def calibration_images(folder: str | PathLike[str]) -> list[Path]:
    """Return at most MAX_IMAGES images, evenly spaced in the sorted folder.

    Raises:
        ExportError: If the folder can't be read, or has no images.
    """
    if not str(folder):
        raise ExportError("calibration='': expected a folder of images")
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())
    except OSError as error:
        raise ExportError(f"calibration={str(folder)!r}: can't be read: {error.strerror or error}") from None
    if not paths:
        raise ExportError(f"calibration={str(folder)!r}: has no images ({', '.join(_ENDINGS)}) in it")
    step = max(1, -(-len(paths) // MAX_IMAGES))
    return paths[::step]


def prepared_image(prepare: Preprocess, path: Path) -> Tensor:
    """Read an image and prepare it for the network.

    Raises:
        ExportError: If the image can't be read, or has other channels or more than 8 bits in each.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            # Pillow would clip 16-bit and floating point pixels at 255.
            if picture.mode.startswith(("I", "F")):
                raise ExportError(f"{path}: has more than 8 bits per channel ({picture.mode}). Save it with 8")
            pixels = _pixels(picture, prepare.channels, path)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ExportError(f"{path}: can't be read as an image: {reason_of(error)}") from None
    try:
        result: Tensor = prepare(torch.from_numpy(pixels)[None])
    except SegnetsError as error:
        raise ExportError(f"{path}: {error}") from None
    return result


def _pixels(picture: Any, channels: int, path: Path) -> np.ndarray[Any, Any]:
    """Return an opened image as (H, W, channels) uint8."""
    if channels == 3:
        return np.array(picture.convert("RGB"))
    if channels == 1:
        return np.array(picture.convert("L"))[:, :, None]
    if len(picture.getbands()) != channels:
        raise ExportError(
            f"{path}: has {len(picture.getbands())} channels, and the network reads {channels}. Name a folder of such "
            "images"
        )
    return np.array(picture)
