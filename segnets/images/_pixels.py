"""Convert images that Pillow decodes to 8-bit pixels."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segnets.errors import ImageError
from segnets.images._files import has_more_pictures, prepare_tiff
from segnets.images._profiles import to_srgb

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

TARGETS = {1: "L", 3: "RGB"}
# Pillow's modes with 8 bits or less in each channel.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_MODES_16 = ("I;16", "I;16L", "I;16B", "I;16N")
_MIN_IS_WHITE = 0
_PHOTOMETRIC = 262
# Largest 8-bit value of data of 14 bits or less that is stored in 16 bits.
_DARK = 63
# Pixels of a large image that are copied at once, and the most pixels of an image that is copied as a whole.
_STRIP, _SMALL = 1 << 16, 1 << 20


def decoded(image: ImageFile, file: IO[bytes], name: str, notices: list[str]) -> Image.Image:
    """Decode the first picture of a file to one of Pillow's modes with at most 8 bits in each channel.

    Args:
        image: Opened image file whose size has been checked.
        file: The file.
        name: Name for messages.
        notices: List to which notices of assumptions and conversions are appended.

    Returns:
        The decoded image.

    Raises:
        ImageError: If its values have more than 16 bits, are signed or are floats.
    """
    if has_more_pictures(image):
        notices.append("it has several frames or pages, of which the first was read")
    if image.format == "PPM" and (top := _ppm_maximum(image)):
        return _ppm(image, file, top, notices)
    if image.format == "TIFF":
        prepare_tiff(image, name)
    layout = " ".join(str(tile[3]) for tile in image.tile)
    image.load()
    if image.mode in _MODES_16:
        inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE  # type: ignore[attr-defined]
        return _from_16(image, notices, bits=12 if "I;12" in layout else 16, inverted=inverted)
    if image.format == "PPM" and image.mode == "I":
        values = np.asarray(image).astype(np.uint16)  # 0..65535, whatever the file's maximum
        return _like(image, eight_bits(values, notices))
    if ";16" in layout and image.mode in _MODES:
        _note_scaling(65535, max(map(_largest, image.split())), notices)
        if "LA;16" in layout:  # Pillow opens it as RGBA
            return image.convert("LA")
    return checked_mode(image, name, notices)


def checked_mode(image: Image.Image, name: str, notices: list[str]) -> Image.Image:
    """Return a decoded image in a mode with at most 8 bits in each channel. 16-bit gray is scaled.

    Raises:
        ImageError: If its values have more than 16 bits, are signed or are floats.
    """
    if image.mode in _MODES_16:
        return _from_16(image, notices)
    if image.mode not in _MODES:
        kind = {"I": "32-bit or signed integers", "F": "floating point"}.get(image.mode, f"mode {image.mode!r}")
        raise ImageError(
            f"{name}: has pixel values of unknown range ({kind}); expected 8 or 16 bits, unsigned. Scale them to "
            "0..255, and save them as PNG or pass an array (H, W, channels) uint8"
        )
    return image


def eight_bits(values: npt.NDArray[Any], notices: list[str], bits: int = 16) -> npt.NDArray[np.uint8]:
    """Scale unsigned values of 9 to 16 bits to 8 bits by dropping the low bits. The largest value becomes 255."""
    result: npt.NDArray[np.uint8] = (values >> (bits - 8)).astype(np.uint8)
    _note_scaling(2**bits - 1, int(result.max(initial=0)), notices)
    return result


def _note_scaling(top: int, largest: int, notices: list[str]) -> None:
    dark = "" if largest > _DARK else f". They are dark: none is above {largest} of 255"
    notices.append(f"its values 0..{top} were scaled to 0..255{dark}")


def _largest(channel: Image.Image) -> int:
    return int(np.flatnonzero(channel.histogram())[-1])


def _from_16(image: Image.Image, notices: list[str], *, bits: int = 16, inverted: bool = False) -> Image.Image:
    values = np.asarray(image)
    if inverted:
        values = ~values & (2**bits - 1)
    if isinstance(key := image.info.get("transparency"), int):
        _note_transparency(int(np.count_nonzero(values == key)), values.size, notices)
    return _like(image, eight_bits(values, notices, bits))


def _like(image: Image.Image, pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Return an image with these pixels, and the profile and orientation of another image."""
    from PIL import Image

    result = Image.fromarray(pixels)
    result.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return result


def _ppm_maximum(image: ImageFile) -> int:
    """Return the value of white in a binary PPM or PGM, or 0 if it is the usual 255 or the file has another type.

    Pillow decodes such files one value at a time in Python, a thousand times slower, and rounds instead of truncating.
    """
    codec, _extents, _offset, layout = image.tile[0]
    if codec == "raw" and layout == "I;16B":
        return 65535
    return int(layout[1]) if codec == "ppm" and isinstance(layout, tuple) else 0


def _ppm(image: ImageFile, file: IO[bytes], top: int, notices: list[str]) -> Image.Image:
    values = np.arange(65536 if top > 255 else 256)
    scaled = values * 256 // (top + 1) if top > 255 else np.rint(values / top * 255)
    table = np.minimum(scaled, 255).astype(np.uint8)
    dtype = np.dtype(">u2" if top > 255 else "u1")
    channels = len(image.getbands())
    count = image.width * image.height * channels
    file.seek(image.tile[0][2])
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise OSError(f"image file is truncated ({count * dtype.itemsize - len(data)} bytes are missing)")
    pixels = table[np.frombuffer(data, dtype)].reshape(image.height, image.width, channels)
    if top > 255:
        _note_scaling(top, int(pixels.max()), notices)
    return _like(image, pixels.squeeze(2) if channels == 1 else pixels)


def array_of(
    image: Image.Image, orientation: int, channels: int, name: str, notices: list[str]
) -> npt.NDArray[np.uint8]:
    """Return the pixels (H, W, channels) of a decoded image of at most 8 bits in each channel.

    Args:
        image: The image, in one of Pillow's modes of 8 bits.
        orientation: EXIF orientation, 1 to 8.
        channels: Number of channels of the result.
        name: Name for messages.
        notices: List to which notices of assumptions and conversions are appended.

    Raises:
        ImageError: If the image has a different number of channels, and `channels` is neither 1 nor 3.
    """
    target = TARGETS.get(channels)
    if target:
        image = _in_colour(image, target, notices)
    else:
        if image.mode == "PA" or (image.mode == "P" and "transparency" in image.info):
            image = image.convert("RGBA")
        if (bands := len(image.getbands())) != channels:
            raise ImageError(
                f"{name}: has {bands} channels, but the network takes {channels}; pass an array (H, W, {channels}) "
                "uint8"
            )
    return _turned_array(image, orientation, channels)


def _in_colour(image: Image.Image, target: str, notices: list[str]) -> Image.Image:
    if image.has_transparency_data:
        image = _opaque(image, notices)
    if image.mode in ("P", "PA"):
        image = image.convert("RGB")
    image = to_srgb(image, notices)
    if image.mode == "CMYK":
        notices.append("its CMYK colours were converted by a simple formula, without a colour profile")
    return image if image.mode == target else image.convert(target)


def _opaque(image: Image.Image, notices: list[str]) -> Image.Image:
    """Drop the transparency. Transparent pixels keep their stored colours."""
    both = image.convert("LA") if image.mode == "La" else image
    if both.mode not in ("LA", "RGBA"):
        both = both.convert("RGBA")
    hidden = image.width * image.height - both.getchannel("A").histogram()[255]
    _note_transparency(hidden, image.width * image.height, notices)
    if image.mode in ("1", "L", "RGB"):  # with one transparent colour
        return image
    return both.convert("L" if both.mode == "LA" else "RGB")


def _note_transparency(hidden: int, pixels: int, notices: list[str]) -> None:
    if hidden:
        notices.append(f"its transparency was dropped; {hidden} of {pixels} pixels are not opaque")


def _turned_array(image: Image.Image, orientation: int, channels: int) -> npt.NDArray[np.uint8]:
    """Return a new writable array of the pixels, with an EXIF orientation applied.

    Strips of rows stay in the CPU's cache. This is more than twice as fast as transforming a large image at once.
    """
    from PIL import Image

    turn = Image.Transpose
    method = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }.get(orientation)
    width, height = image.size
    rows = height if width * height <= _SMALL else max(1, _STRIP // width)
    if method is None and rows == height:
        return np.array(image).reshape(height, width, channels)
    columns_are_rows, from_the_end = orientation >= 5, orientation in (3, 4, 6, 7)
    result = np.empty((width, height, channels) if columns_are_rows else (height, width, channels), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image.crop((0, top, width, bottom))
        strip = strip if method is None else strip.transpose(method)
        pixels = np.asarray(strip).reshape(strip.height, strip.width, channels)
        place = slice(height - bottom, height - top) if from_the_end else slice(top, bottom)
        if columns_are_rows:
            result[:, place] = pixels
        else:
            result[place] = pixels
    return result
