"""TIFF files: images of 1 to 16 bands, and masks with one band per class.

tifffile is imported when first used (extra `train`).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segnets.errors import DataError
from segnets.images import MAX_PIXELS, ImageData

_SILENT = logging.NullHandler()
SUFFIXES = frozenset((".tif", ".tiff"))


def read_bands(path: Path, channels: int) -> ImageData:
    """Read all bands of a TIFF file as 8-bit values.

    Bands may be samples of a pixel, planes, or pages of the same size. 16-bit values keep their high 8 bits, as in
    `segnets.images.read_image`.

    Args:
        path: Path of the file.
        channels: Number of bands.

    Returns:
        Pixels (H, W, channels), uint8, with notices about assumptions.

    Raises:
        DataError: If tifffile is missing, the file can't be read, or the number of bands or the dtype is wrong.
    """
    return _eight_bits(
        np.moveaxis(_planes(path, channels, "the data set has {} channels. Correct channels"), 0, 2), path
    )


def read_planes(path: Path, count: int) -> npt.NDArray[np.uint8]:
    """Read a mask with one band per class.

    Args:
        path: Path of a TIFF file.
        count: Number of classes.

    Returns:
        Planes of shape (count, H, W), uint8, as stored.

    Raises:
        DataError: If tifffile is missing, the file can't be read, or the number of bands or the dtype is wrong.
    """
    planes = _planes(path, count, "there are {} classes. Save one band per class")
    if planes.dtype not in (np.uint8, np.bool_):
        raise DataError(f"{path}: has dtype {planes.dtype}. Save planes of 0 and 1 as uint8.")
    return np.ascontiguousarray(planes, dtype=np.uint8)


def _planes(path: Path, count: int, expected: str) -> npt.NDArray[np.generic]:
    """Return the bands of a TIFF file, (count, H, W)."""
    try:
        import tifffile
    except ImportError:
        raise DataError(f"{path}: needs tifffile, which is not installed: pip install 'segnets[train]'.") from None
    logging.getLogger("tifffile").addHandler(_SILENT)  # the exception already describes the damage
    if not path.is_file():
        raise DataError(f"{path}: {'is not a regular file' if path.exists() else 'no such file'}.")
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            if series.size > MAX_PIXELS * count:
                raise ValueError(f"{series.size:,} values; at most {MAX_PIXELS * count:,} are decoded")
            pixels, axes = series.asarray(), series.axes
    except Exception as error:  # tifffile raises many exception types for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path}: can't be read as a TIFF ({reason}). Save it again, without compression or with deflate. Other "
            "compressions need the package imagecodecs."
        ) from None
    if pixels.ndim == 2:
        pixels, axes = pixels[:, :, None], f"{axes}S"
    others = [place for place, axis in enumerate(axes) if axis not in "YX"]
    if pixels.ndim == 3 and "Q" in axes and pixels.shape[2] == count and pixels.shape[0] != count:
        others = [2]  # without metadata, tifffile writes an array (H, W, K) as pages of unknown meaning
    if pixels.ndim != 3 or len(others) != 1 or pixels.shape[others[0]] != count:
        shape = " x ".join(map(str, pixels.shape))
        raise DataError(f"{path}: has {shape} values ({axes}), but {expected.format(count)}.")
    return np.moveaxis(pixels, others[0], 0)


def _eight_bits(pixels: npt.NDArray[np.generic], path: Path) -> ImageData:
    if pixels.dtype == np.uint8:
        return ImageData(np.ascontiguousarray(pixels, dtype=np.uint8))
    if pixels.dtype != np.uint16:
        raise DataError(
            f"{path}: has dtype {pixels.dtype}, whose range is unknown. Scale the values to 0..255, as uint8."
        )
    scaled = np.ascontiguousarray(np.right_shift(pixels.astype(np.uint16), 8), dtype=np.uint8)
    largest = int(scaled.max(initial=0))
    dark = "" if largest >= 64 else f". They are dark: none is above {largest} of 255"
    return ImageData(scaled, (f"its values 0..65535 were scaled to 0..255{dark}",))
