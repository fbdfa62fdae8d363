"""Read an image from any source."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segnets.errors import ImageError
from segnets.images._files import (
    MAX_PIXELS,
    check_size,
    check_webp_size,
    late_orientation,
    open_image,
    opened_file,
    printable,
    stored_size,
    undecodable,
)
from segnets.images._pixels import TARGETS, array_of, checked_mode, decoded, eight_bits

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from PIL.ImageFile import ImageFile

ImageLike: TypeAlias = (
    "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | npt.NDArray[np.uint8] | npt.NDArray[np.uint16]"
)

_ORIENTATION = 0x0112


@dataclass(frozen=True, eq=False)
class ImageData:
    """Pixels of one image.

    Attributes:
        pixels: Array of shape (H, W, channels), uint8, contiguous, as the image is displayed.
        notices: Assumptions and omissions, one phrase each, without the name of the image. Usually empty.
    """

    pixels: npt.NDArray[np.uint8]
    notices: tuple[str, ...] = ()


def image_pixels(image: ImageLike | torch.Tensor, channels: int = 3) -> npt.NDArray[np.uint8]:
    """Return the pixels of one image as it is displayed, without the notices of `read_image`.

    Args:
        image: Any source that `read_image` accepts.
        channels: Number of channels of the result, as for `read_image`.

    Returns:
        Pixels of shape (H, W, channels), uint8, contiguous; RGB for 3, gray for 1.

    Raises:
        ImageError: If the image can't be read, or has the wrong number of channels.
    """
    return read_image(image, channels).pixels


def read_image(source: ImageLike | torch.Tensor, channels: int = 3, *, max_pixels: int = MAX_PIXELS) -> ImageData:
    """Read one image as it is displayed. This function is thread-safe.

    A file is recognised by its content. Its pixels become 8-bit RGB or gray by these rules, each but the first with a
    notice:

    - The EXIF orientation is applied.
    - 16 bits per channel are scaled by dropping the low 8 bits, for gray and colour alike. So 0 becomes 0 and 65535
      becomes 255, and the result is at most 1 below the rounded one. 8-bit values that were widened by 256 or by 257
      come back exactly. 12-bit TIFF and PPM files are scaled from their own range. 32-bit, signed and float values are
      refused, because their range is unknown.
    - Transparency is dropped, and the stored colours of transparent pixels appear. The notice is given if any pixel is
      not opaque.
    - Colours with an embedded ICC profile other than sRGB are converted to sRGB, with the relative colorimetric intent
      and black point compensation. A damaged profile is ignored.
    - CMYK without a profile is converted by the formula R = (255 - C) * (255 - K) / 255.
    - Only the first picture of an animation or a file with several pages is read.

    Args:
        source: Path of an image file; the bytes of one, or a file opened in binary mode, which is read from its
            beginning; a Pillow image; an array (H, W, channels) or (H, W), uint8 or uint16, RGB; or a tensor of these
            shapes and dtypes on any device. Gray arrays (H, W) and (H, W, 1) are repeated in all three channels. An
            array of the right shape and dtype is not copied.
        channels: Number of channels of the result. For 3 and 1, colours and gray values are converted. Any other number
            must be the image's own, and its channels are used unchanged, without colour profiles.
        max_pixels: Largest number of pixels to decode. The header of a file is compared with it before any memory is
            allocated. Arrays, tensors and decoded Pillow images have no limit.

    Returns:
        Pixels of shape (H, W, channels), uint8, and notices.

    Raises:
        ImageError: If the image can't be read, has the wrong number of channels or unsupported values, or has more
            pixels than `max_pixels`.

    Example:
        >>> image = read_image("photo.jpg")
        >>> height, width, _ = image.pixels.shape
    """
    notices: list[str] = []
    if isinstance(source, np.ndarray):
        return ImageData(_from_array(source, channels, notices), tuple(notices))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.Tensor):
        return ImageData(_from_array(_array_of_tensor(source), channels, notices), tuple(notices))
    from PIL import Image

    if isinstance(source, Image.Image):
        pixels = _from_pillow(source, channels, max_pixels, notices)
    elif isinstance(source, str | os.PathLike):
        name = _name_of(source)
        with opened_file(source, name) as file:
            pixels = _from_file(file, name, channels, max_pixels, notices)
    else:
        pixels = _from_file(_stream(source, channels), _name_of(source), channels, max_pixels, notices)
    return ImageData(pixels, tuple(notices))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) of an image file as it is displayed. No pixel is decoded.

    Args:
        path: Path of the file.

    Returns:
        Height and width in pixels.

    Raises:
        ImageError: If the file can't be read, or is not an image.
    """
    from PIL import Image

    name = _name_of(path)
    with opened_file(path, name) as file:
        try:
            check_webp_size(file, name, MAX_PIXELS)
            image = open_image(file, name)
            width, height = stored_size(image)
            # The method of PNG images decodes them, in search of an orientation after the pixels.
            exif = Image.Image.getexif(image)
            if image.format == "PNG" and late_orientation(file):
                check_size(width, height, name, MAX_PIXELS)
                image = open_image(file, name)
                exif = image.getexif()
            orientation = exif.get(_ORIENTATION, 1)
        except Exception as error:
            raise undecodable(error, name, "") from None
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _name_of(source: Any) -> str:
    """Return a name for messages, on one line."""
    if isinstance(source, str | os.PathLike):
        name = printable(os.fsdecode(source))
        if not name:
            raise ImageError("image: its path is empty")
        return name
    own = getattr(source, "name", None)
    return printable(own) if isinstance(own, str) and own else "image"


def _stream(source: Any, channels: int) -> IO[bytes]:
    """Return a seekable binary file."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if isinstance(source, io.TextIOBase):
        raise ImageError(f"{_name_of(source)}: is opened as text; open it in binary mode ('rb')")
    if not hasattr(source, "read"):
        raise ImageError(
            f"image: expected a path, bytes, a binary file, a Pillow image, an array or tensor (H, W, {channels}) uint8"
            f", got {type(source).__name__}"
        )
    try:
        source.seek(0)
    except (AttributeError, OSError, ValueError):  # a pipe
        try:
            data = source.read()
        except Exception as error:
            raise undecodable(error, _name_of(source), "") from None
        if not isinstance(data, bytes):
            raise ImageError(
                f"{_name_of(source)}: its read() does not return bytes; open it in binary mode ('rb')"
            ) from None
        return io.BytesIO(data)
    file: IO[bytes] = source
    return file


def _from_file(file: IO[bytes], name: str, channels: int, max_pixels: int, notices: list[str]) -> npt.NDArray[np.uint8]:
    kind = ""
    try:
        check_webp_size(file, name, max_pixels)
        image = open_image(file, name)
        kind = image.format or ""
        check_size(*image.size, name, max_pixels)
        result = decoded(image, file, name, notices)
        orientation = _orientation_of(image, notices)
        return array_of(result, orientation, channels, name, notices)
    except Exception as error:  # Pillow's readers raise exceptions of any type for a damaged file
        raise undecodable(error, name, kind) from None


def _from_pillow(image: Image.Image, channels: int, max_pixels: int, notices: list[str]) -> npt.NDArray[np.uint8]:
    name = _name_of(getattr(image, "filename", "") or None)
    try:
        if getattr(image, "tile", None):  # not decoded yet
            check_size(*image.size, name, max_pixels)
        image.load()
        result = checked_mode(image, name, notices)
        return array_of(result, _orientation_of(image, notices), channels, name, notices)
    except Exception as error:  # as for files
        raise undecodable(error, name, image.format or "") from None


def _orientation_of(image: Image.Image | ImageFile, notices: list[str]) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF data is untrusted, and not needed for the pixels
        notices.append("its EXIF data is damaged, so no orientation was applied")
        return 1
    return orientation if orientation in range(1, 9) else 1


def _array_of_tensor(tensor: torch.Tensor) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError, NotImplementedError):  # bfloat16, sparse, meta
        raise ImageError(
            f"image: expected a tensor (H, W, channels) uint8, got {tensor.dtype} ({tensor.layout}, {tensor.device})"
        ) from None
    return array


def _from_array(image: npt.NDArray[Any], channels: int, notices: list[str]) -> npt.NDArray[np.uint8]:
    expected = f"image: expected an array or tensor (H, W, {channels}) uint8, 0..255, or uint16, 0..65535"
    if image.dtype.kind != "u" or image.dtype.itemsize > 2:
        raise ImageError(f"{expected}, got {image.dtype}; convert with image.astype(np.uint8) if its values are 0..255")
    gray = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    if (not (gray and channels in TARGETS) and (image.ndim != 3 or image.shape[2] != channels)) or not image.size:
        raise ImageError(f"{expected}, got the shape {image.shape}{_advice(image.shape, channels)}")
    if image.dtype.itemsize == 2:
        image = eight_bits(image, notices)
    if gray:
        image = np.repeat(image.reshape(*image.shape[:2], 1), channels, axis=2)
    return np.ascontiguousarray(image)


def _advice(shape: tuple[int, ...], channels: int) -> str:
    """Return advice on how to turn an array of this shape into an image, or ""."""
    if len(shape) == 4:
        return "; pass one image at a time, or a batch as a tensor (torch.from_numpy)"
    if len(shape) == 3 and shape[0] == channels != shape[2]:
        return "; move the channels last with image.transpose(1, 2, 0), or permute(1, 2, 0) of a tensor"
    if len(shape) == 3 and (channels, shape[2]) == (3, 4):
        return "; drop the transparency with image[:, :, :3]"
    return ""
