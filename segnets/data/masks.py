"""Reading of mask files: class ids in gray or palette images of 8 or 16 bits, or colours.

Pillow is imported when first used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from segnets.card import Colour
from segnets.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_COLOURED = ("RGB", "RGBA", "RGBX")
_LARGEST = 65535


class UnknownColoursError(DataError):
    """Error for mask colours that are not in the palette.

    Attributes:
        counts: Number of pixels of each of these colours.
    """

    def __init__(self, message: str, counts: Mapping[Colour, int]) -> None:
        super().__init__(message)
        self.counts = counts


def read_mask(
    path: Path, palette: Sequence[Colour] = (), *, by_colour: bool = False
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Read the values of a mask file.

    The values of gray images of 1, 8 and 16 bits, and the indices of palette images, are used unchanged. The colours
    of RGB images are looked up in `palette`. Without a palette, an RGB image is accepted if red, green and blue are
    equal everywhere, and its gray values are used.

    Args:
        path: Path of the file.
        palette: One RGB colour per value.
        by_colour: Whether to look up the colours of palette and gray images too, instead of using their values.

    Returns:
        Values of shape (H, W), uint8, or uint16 for 16-bit files.

    Raises:
        DataError: If the file can't be read, is not a supported mask, or has a colour that is not in the palette.
    """
    with _opened(path) as image:
        return mask_values(image, str(path), palette, by_colour=by_colour)


def mask_values(
    image: Image.Image, name: str, palette: Sequence[Colour] = (), *, by_colour: bool = False
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Return the values of an opened mask image, as `read_mask` does.

    Args:
        image: Image opened by Pillow.
        name: Name for messages.
        palette: One RGB colour per value.
        by_colour: Whether to look up the colours of palette and gray images too.

    Returns:
        Values (H, W), uint8, or uint16 for 16-bit files.

    Raises:
        DataError: If the image is damaged or not a supported mask, or has a colour that is not in the palette.
    """
    if image.format == "JPEG":
        raise DataError(f"{name}: is a JPEG, whose compression changes class ids. Save masks as PNG.")
    try:
        image.load()
        pages = getattr(image, "n_frames", 1)
    except Exception as error:  # Pillow raises many exception types for damaged files
        raise _damaged(name, error) from None
    if pages > 1:
        raise DataError(f"{name}: has {pages} pages or frames. Save one mask per file, as PNG.")
    if image.mode in ("P", "L", "1") and by_colour:
        image = image.convert("RGB")
    if image.mode in ("P", "L"):
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode == "LA":
        return np.asarray(image.getchannel(0))
    if image.mode in _WIDE:
        values = np.asarray(image)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= _LARGEST:
            raise DataError(f"{name}: has values {values.min()}..{values.max()}. Expected class ids 0..{_LARGEST}.")
        return values.astype(np.uint16)
    if image.mode in _COLOURED:
        return _from_colours(np.asarray(image)[:, :, :3], name, palette)
    raise DataError(
        f"{name}: has mode {image.mode!r}, which is not supported. Save the mask as PNG with 8-bit class ids."
    )


def file_palette(path: Path) -> list[Colour]:
    """Return the palette of a palette image, or an empty list for other images.

    Raises:
        DataError: If the file can't be read.
    """
    with _opened(path) as image:
        return palette_of(image)


def palette_of(image: Image.Image) -> list[Colour]:
    """Return the palette of an opened palette image, or an empty list for other images."""
    flat = (image.getpalette("RGB") if image.mode == "P" else None) or []
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3)]


def _opened(path: Path) -> Image.Image:
    if not path.is_file():  # opening a pipe would block
        what = "is not a regular file" if path.exists() else "no such file"
        raise DataError(f"{path}: {what}. Add the mask, or remove its image from the data set.")
    return opened_mask(path, str(path))


def opened_mask(file: Path | IO[bytes], name: str) -> Image.Image:
    """Open a mask without decoding it.

    Args:
        file: Path of a regular file, or a file opened in binary mode.
        name: Name for messages.

    Raises:
        DataError: If the file is not an image.
    """
    from PIL import Image

    try:
        return Image.open(file)
    except Exception as error:  # Pillow raises many exception types for damaged files
        raise _damaged(name, error) from None


def _damaged(name: str, error: Exception) -> DataError:
    from PIL import UnidentifiedImageError

    unknown = isinstance(error, UnidentifiedImageError)
    reason = "not an image" if unknown else (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{name}: can't be read as a mask ({reason}). Save it again, as PNG.")


def _from_colours(
    colours: npt.NDArray[np.uint8], name: str, palette: Sequence[Colour]
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    if not palette:
        if (colours == colours[:, :, :1]).all():
            return np.ascontiguousarray(colours[:, :, 0])
        message = (
            f"{name}: has colours, but the data set has no palette. Add palette = [[red, green, blue], ...] to "
            "dataset.toml, one colour per class."
        )
        raise UnknownColoursError(message, _counted(_codes(colours)))
    if len({*palette}) < len(palette):
        raise DataError(
            f"{name}: has colours, but the palette lists one of them twice. Give each class its own colour."
        )
    codes = _codes(colours)
    known = np.array([red << 16 | green << 8 | blue for red, green, blue in palette], dtype=np.uint32)
    order = np.argsort(known, kind="stable")
    places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    found = order[places]
    missing = known[found] != codes
    if missing.any():
        counts = _counted(codes[missing])
        most = max(counts, key=lambda colour: counts[colour])
        message = (
            f"{name}: {int(missing.sum())} pixels have colours that are not in the palette, most often {list(most)}. "
            "Add the colour to palette, or save the mask without smoothing or compression."
        )
        raise UnknownColoursError(message, counts)
    values: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    values = found.astype(np.uint8) if len(palette) <= 256 else found.astype(np.uint16)
    return values


def _codes(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Encode colours (H, W, 3) as numbers (H, W)."""
    wide = colours.astype(np.uint32)
    codes: npt.NDArray[np.uint32] = (wide * np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)).sum(
        axis=2, dtype=np.uint32
    )
    return codes


def _counted(codes: npt.NDArray[np.uint32]) -> dict[Colour, int]:
    """Return the number of pixels of each colour."""
    found, counts = np.unique(codes, return_counts=True)
    return {
        (int(code) >> 16, int(code) >> 8 & 255, int(code) & 255): int(count)
        for code, count in zip(found, counts, strict=True)
    }
