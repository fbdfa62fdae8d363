"""Read images in windows, so that they need not fit into memory.

TIFF files are read through GDAL (rasterio, the extra `geo`), which decodes only the blocks that a window needs. Other
files, and TIFF files of rare kinds, are decoded whole by `segnets.images`. The pixels are the same either way,
except in JPEG-compressed TIFF files, whose chroma GDAL and Pillow upsample with different filters.

Shapes: H W the image, K its channels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from segnets.errors import ImageError
from segnets.images import MAX_PIXELS, ImageData, image_size, read_image

if TYPE_CHECKING:
    from segnets.images import ImageLike

# Smallest cache of decoded blocks in GDAL, in bytes. GDAL's default is 5 % of the machine's memory.
MIN_CACHE = 64 << 20
_MAX_CACHE = (1 << 31) - 1  # the largest that rasterio can set
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PHOTOMETRIC, _ORIENTATION, _PROFILE = 258, 262, 274, 34675
_GEOREFERENCE = (33550, 34264, 34735)
# Gray, RGB and YCbCr. GDAL returns other values as stored: inverted, palette indices, CMYK or Lab.
_PLAIN = (1, 2, 6)


@dataclass(frozen=True)
class Geo:
    """Georeference of an image.

    Attributes:
        crs: Coordinate reference system as WKT, or "" if it is unknown.
        transform: Numbers a, b, c, d, e, f: the corner of the pixel in row y and column x is at (a * x + b * y + c, d *
            x + e * y + f).
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


class Raster(Protocol):
    """Image that is read in windows.

    Attributes:
        name: Name for messages.
        height: Displayed height H, in pixels.
        width: Displayed width W, in pixels.
        channels: Number K of channels.
        geo: Georeference, or None.
    """

    name: str
    height: int
    width: int
    channels: int
    geo: Geo | None

    @property
    def notices(self) -> tuple[str, ...]:
        """Assumptions and omissions so far, one phrase each, as in `ImageData`."""

    def read(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint8]:
        """Return the pixels of a window, (bottom - top, right - left, K) uint8.

        Raises:
            ImageError: If the file is damaged there.
        """

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_raster(source: ImageLike | ImageData, channels: int = 3, *, max_pixels: int = MAX_PIXELS) -> Raster:
    """Open an image to read it in windows.

    Args:
        source: Decoded image, or any source that `read_image` accepts. TIFF files given by path are read in windows;
            everything else is decoded whole.
        channels: Number of channels of the pixels, as for `read_image`. For 3 and 1, further bands of a TIFF file are
            ignored.
        max_pixels: Largest number of pixels to decode whole. Reading in windows has no limit.

    Returns:
        The image. It is closed at the end of a `with` block.

    Raises:
        ImageError: If the image can't be read, has the wrong number of channels, or has more than `max_pixels` pixels
            and can't be read in windows.
    """
    if isinstance(source, ImageData):
        return _Pixels("image", source, None)
    if isinstance(source, str | os.PathLike) and _is_tiff(Path(source)):
        return _open_tiff(Path(source), channels, max_pixels)
    name = str(source) if isinstance(source, str | os.PathLike) else "image"
    return _Pixels(name, read_image(source, channels, max_pixels=max_pixels), None)


def georeference(path: Path) -> Geo | None:
    """Return the georeference in the tags of a TIFF file, without reading its pixels.

    The result is None for other files, for files without one, and if rasterio is missing or can't open the file.
    """
    if not _is_tiff(path) or not any(tag in _tags(path) for tag in _GEOREFERENCE):
        return None
    try:
        import rasterio

        with gdal(MIN_CACHE), rasterio.open(path.absolute(), driver="GTiff") as dataset:
            return _geo(dataset)
    except (ImportError, OSError, ValueError):
        return None


class _Closing:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None: ...


class _Pixels(_Closing):
    """Image that is decoded whole."""

    def __init__(self, name: str, image: ImageData, geo: Geo | None) -> None:
        self.name, self.geo = name, geo
        self.height, self.width, self.channels = image.pixels.shape
        self.notices = image.notices
        self._pixels = image.pixels

    def read(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint8]:
        return self._pixels[top:bottom, left:right]


class _Windows(_Closing):
    """TIFF file that is read in windows.

    Args:
        path: Path of the file.
        dataset: The file, opened by rasterio.
        bands: Numbers of the bands to read, from 1.
        channels: Number of channels of the pixels.
        bits: Bits per channel.
        profile: Embedded colour profile, or None.
        geo: Georeference, or None.
        notices: Assumptions and omissions.
    """

    def __init__(
        self,
        path: Path,
        dataset: Any,
        bands: list[int],
        channels: int,
        bits: int,
        profile: bytes | None,
        geo: Geo | None,
        notices: list[str],
    ) -> None:
        self.name, self.geo, self.channels = str(path), geo, channels
        self.height, self.width = dataset.height, dataset.width
        self._dataset, self._bands, self._bits, self._profile = dataset, bands, bits, profile
        self._cache = max(MIN_CACHE, 2 * _bytes_of_blocks(dataset))
        self._notices = notices
        self._largest = 0

    @property
    def notices(self) -> tuple[str, ...]:
        if self._bits == 8:
            return tuple(self._notices)
        # The notice that `read_image` gives if the largest value is the same.
        largest = np.full((1, 1), self._largest << 8, dtype=np.uint16)
        scaling = read_image(largest, 1).notices[0].replace("65535", str(2**self._bits - 1))
        return (*self._notices, scaling)

    def read(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint8]:
        from rasterio.windows import Window

        with gdal(self._cache), _damage(self.name):
            window = Window(left, top, right - left, bottom - top)
            bands = self._dataset.read(self._bands, window=window)
        values = np.ascontiguousarray(bands.transpose(1, 2, 0))
        if self._bits > 8:
            values = values << (16 - self._bits)
        pixels = read_image(values, values.shape[2]).pixels
        if self._bits > 8:
            self._largest = max(self._largest, int(pixels.max()))
        if self._profile is not None or (self.channels == 1 and pixels.shape[2] == 3):
            return self._converted(pixels)
        return read_image(pixels, self.channels).pixels

    def _converted(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Convert colours as `read_image` does for a file decoded whole."""
        from PIL import Image

        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        if self._profile is not None:
            image.info["icc_profile"] = self._profile
        converted = read_image(image, self.channels)
        self._notices += [each for each in converted.notices if each not in self._notices]
        return converted.pixels

    def close(self) -> None:
        self._dataset.close()


def is_georeferenced(path: Path) -> bool:
    """Return whether a file is a georeferenced TIFF. Only its tags are read."""
    return _is_tiff(path) and any(tag in _GEOREFERENCE for tag in _tags(path))


def _is_tiff(path: Path) -> bool:
    try:
        if not path.is_file():  # opening a pipe waits
            return False
        with path.open("rb") as file:
            return file.read(4) in _TIFF
    except (OSError, ValueError):
        return False  # `read_image` reports the reason


def _open_tiff(path: Path, channels: int, max_pixels: int) -> Raster:
    tags = _tags(path)
    try:
        import rasterio
    except ImportError:
        return _without_rasterio(path, channels, max_pixels, tags)
    try:
        with gdal(MIN_CACHE), warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            # An absolute path and one driver: GDAL interprets other names, for example as URLs.
            dataset = rasterio.open(path.absolute(), driver="GTiff")
            geo = _geo(dataset)
    except (rasterio.errors.RasterioError, OSError, ValueError):
        # `read_image` can read it, or reports why not.
        return _Pixels(str(path), read_image(path, channels, max_pixels=max_pixels), None)
    try:
        if (raster := _by_windows(path, dataset, tags, channels, geo, max_pixels)) is not None:
            return raster
    except BaseException:
        dataset.close()
        raise
    dataset.close()
    if geo is not None and tags.get(_ORIENTATION, 1) != 1:
        geo = None  # it refers to the pixels as stored
    return _Pixels(str(path), read_image(path, channels, max_pixels=max_pixels), geo)


def _without_rasterio(path: Path, channels: int, max_pixels: int, tags: dict[int, Any]) -> Raster:
    height, width = image_size(path)
    if height * width > max_pixels:
        raise ImageError(
            f"{path}: has {width}x{height} pixels, but at most {max_pixels:,} are decoded at a time. Install rasterio "
            "to read TIFF files in windows: pip install 'segnets[geo]'"
        )
    image = read_image(path, channels, max_pixels=max_pixels)
    if any(tag in tags for tag in _GEOREFERENCE):
        lost = "its georeference was ignored, because rasterio is missing (pip install 'segnets[geo]')"
        image = ImageData(image.pixels, (*image.notices, lost))
    return _Pixels(str(path), image, None)


def _by_windows(
    path: Path, dataset: Any, tags: dict[int, Any], channels: int, geo: Geo | None, max_pixels: int
) -> Raster | None:
    """Return the image if windows give the same pixels as decoding it whole, else None.

    Raises:
        ImageError: If the file has the wrong number of channels, or its blocks are too large.
    """
    types = {*dataset.dtypes}
    bits = max(tags.get(_BITS, (1,)))
    if (
        types not in ({"uint8"}, {"uint16"})
        or not min(tags.get(_BITS, (1,))) >= 8
        or tags.get(_PHOTOMETRIC) not in _PLAIN
        or tags.get(_ORIENTATION, 1) != 1
    ):
        return None
    notices: list[str] = []
    bands = _bands(path, dataset, channels, notices)
    rows = max(height for height, _ in dataset.block_shapes)
    if rows * dataset.width > max_pixels:
        raise ImageError(
            f"{path}: is stored in blocks of {rows} rows. Each block of {rows * dataset.width:,} pixels must be "
            f"decoded at once, but the limit is {max_pixels:,} (--max-pixels). Store it in tiles: gdal_translate -co "
            "TILED=YES"
        )
    if dataset.subdatasets:
        notices.append("it has several frames or pages, of which the first was read")
    profile = tags.get(_PROFILE) if channels in (1, 3) else None
    return _Windows(path, dataset, bands, channels, bits, profile, geo, notices)


def _bands(path: Path, dataset: Any, channels: int, notices: list[str]) -> list[int]:
    """Return the numbers of the bands that make up the image, from 1.

    Raises:
        ImageError: If the file has the wrong number of bands.
    """
    meanings = [each.name for each in dataset.colorinterp]
    if channels not in (1, 3):
        bands = list(range(1, dataset.count + 1))
        if dataset.count == channels:
            return bands
    else:
        bands = [number for number, meaning in enumerate(meanings, 1) if meaning != "alpha"]
        if {"red", "green", "blue"} <= {*meanings}:
            bands = [meanings.index(colour) + 1 for colour in ("red", "green", "blue")]
        elif len(bands) == 3:
            notices.append("its three bands were read as red, green and blue")
        if "alpha" in meanings:
            notices.append("its transparency was dropped")
        if len(bands) + meanings.count("alpha") < dataset.count:
            notices.append(f"only the red, green and blue bands of its {dataset.count} bands were read")
        if len(bands) in (1, 3):
            return bands
    chosen = " ".join(f"-b {number}" for number in range(1, channels + 1))
    raise ImageError(
        f"{path}: has {dataset.count} bands, but the network takes {channels} channels; choose the bands, for example "
        f"gdal_translate {chosen} IN OUT"
    )


def _bytes_of_blocks(dataset: Any) -> int:
    """Return the size in bytes of one row of blocks, over the whole width."""
    rows, columns = dataset.block_shapes[0]
    blocks = -(-dataset.width // columns)
    return int(rows * columns * blocks * dataset.count * np.dtype(dataset.dtypes[0]).itemsize)


def _geo(dataset: Any) -> Geo | None:
    """Return the georeference of a file."""
    transform = dataset.transform
    if dataset.crs is None and transform.is_identity:
        return None
    crs = dataset.crs.to_wkt() if dataset.crs is not None else ""
    return Geo(crs, tuple(transform)[:6])


def _tags(path: Path) -> dict[int, Any]:
    """Return the tags of the first image of a TIFF file; none if it is damaged."""
    from PIL import TiffImagePlugin

    try:
        with path.open("rb") as file:
            head = file.read(16)
            tags = TiffImagePlugin.ImageFileDirectory_v2(head[: 16 if head[2:4] in (b"+\0", b"\0+") else 8])
            file.seek(tags.next)
            tags.load(file)
            wanted = (_BITS, _PHOTOMETRIC, _ORIENTATION, _PROFILE, *_GEOREFERENCE)
            return {tag: tags[tag] for tag in wanted if tag in tags}
    except Exception:  # Pillow raises exceptions of any type for a damaged file
        return {}


@contextmanager
def gdal(cache: int) -> Iterator[None]:
    """Limit GDAL's cache to a number of bytes, and keep it from listing the file's folder."""
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=min(cache, _MAX_CACHE), GDAL_DISABLE_READDIR_ON_OPEN="TRUE"):
        yield


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Convert rasterio's errors to an ImageError."""
    import rasterio

    try:
        yield
    except (rasterio.errors.RasterioError, OSError, ValueError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ImageError(f"{name}: can't be read as an image: this TIFF is damaged or incomplete ({reason})") from None
