"""Images of a folder, prepared for the calibration of an int8 network and for measuring its cost."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from segnets.errors import ExportError, ImageError, SegnetsError
from segnets.images import image_pixels
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
        raise ExportError(f"calibration={str(folder)!r}: has no images ({', '.join(_ENDINGS)})")
    step = max(1, -(-len(paths) // MAX_IMAGES))
    return paths[::step]


def prepared_image(prepare: Preprocess, path: Path) -> Tensor:
    """Read an image and prepare it for the network.

    Returns:
        Input of the network (1, K, h, w), float32, normalised.

    Raises:
        ExportError: If the image can't be read, or has the wrong number of channels.
    """
    try:
        pixels = image_pixels(path, prepare.channels)
    except ImageError as error:
        raise ExportError(str(error)) from None
    try:
        result: Tensor = prepare(torch.from_numpy(pixels)[None])
    except SegnetsError as error:
        raise ExportError(f"{path}: {error}") from None
    return result
