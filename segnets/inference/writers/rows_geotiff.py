"""Write masks as GeoTIFF, row by row. rasterio is imported when first used."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from segnets.errors import ImageError, OutputError
from segnets.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from segnets.inference.rasters import MIN_CACHE, gdal
from segnets.inference.writers.mask import MOST_INDEXED
from segnets.inference.writers.rows import RowImage

if TYPE_CHECKING:
    from segnets.inference.tiles import Rows

_BLOCK = 256  # rows and columns of the blocks in the file, a multiple of 16


class GeoTiffRows:
    """Writer of the mask as GeoTIFF with the georeference of its image.

    Ids are one band of 8 bits with the palette as its colours, or of 16 bits for more than 256 classes. The planes of a
    multi-label mask are bands of 0 and 1, named after the classes. The tag "classes" holds the names as JSON. Blocks of
    256 x 256 pixels are compressed (deflate). Above 2 GB the file is a BigTIFF.

    GDAL writes to a temporary file next to the output, which is read back, compared and copied.
    """

    suffix = ".tif"
    needs_confidence = False
    needs_logits = False

    def __init__(self) -> None:
        self._path: Path | None = None
        self._dataset: Any = None

    def start(self, image: RowImage, file: BinaryIO) -> None:
        """Begin the file, as `RowWriter.start` does.

        Raises:
            ImageError: If rasterio is missing.
            OutputError: If GDAL can't write the file.
        """
        try:
            import rasterio
        except ImportError:
            raise ImageError(
                f"{image.source}: GeoTIFF files need rasterio, which is not installed: pip install 'segnets[geo]'"
            ) from None
        self._file, self._height, self._width = file, image.height, image.width
        self._dtype = np.dtype(np.uint16 if not image.planes and len(image.classes) > MOST_INDEXED else np.uint8)
        # Whole blocks are written: GDAL would compress a block again for each part of it.
        self._waiting = np.empty((image.planes or 1, _BLOCK, image.width), dtype=self._dtype)
        self._filled = self._top = self._checksum = 0
        name = getattr(file, "name", None)
        folder = Path(name).absolute().parent if isinstance(name, str) else None
        descriptor, path = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=TEMPORARY_SUFFIX, dir=folder)
        os.close(descriptor)
        self._path = Path(path)
        with self._errors():
            self._dataset = rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=image.height,
                width=image.width,
                count=image.planes or 1,
                dtype=self._dtype.name,
                tiled=True,
                blockxsize=_BLOCK,
                blockysize=_BLOCK,
                compress="deflate",
                bigtiff="IF_SAFER",
                **_place(image),
            )
            if image.planes:
                self._dataset.descriptions = image.classes
            elif self._dtype == np.uint8:
                self._dataset.write_colormap(1, {i: (*colour, 255) for i, colour in enumerate(image.palette)})
            self._dataset.update_tags(classes=json.dumps(image.classes))

    def rows(self, rows: Rows) -> None:
        """Add rows, as `RowWriter.rows` does."""
        mask: npt.NDArray[Any] = rows.mask if rows.mask.ndim == 3 else rows.mask[None]
        done = 0
        while done < mask.shape[1]:
            count = min(mask.shape[1] - done, _BLOCK - self._filled)
            self._waiting[:, self._filled : self._filled + count] = mask[:, done : done + count]
            self._filled += count
            done += count
            if self._filled == _BLOCK:
                self._flush()

    def finish(self) -> None:
        """Complete the file, as `RowWriter.finish` does.

        Raises:
            OutputError: If GDAL can't write the file.
        """
        import rasterio

        assert self._path is not None  # set by `start`
        path = self._path
        if self._filled:
            self._flush()
        with self._errors():
            self._dataset.close()
            # GDAL only logs that the disk is full at the end.
            checksum = 0
            with rasterio.open(path, driver="GTiff") as dataset:
                for top in range(0, self._height, _BLOCK):
                    count = min(_BLOCK, self._height - top)
                    checksum = zlib.crc32(dataset.read(window=_window(top, count, self._width)), checksum)
        if checksum != self._checksum:
            raise OutputError(f"{path}: GDAL did not write all pixels; is the disk full?")
        with path.open("rb") as written:
            shutil.copyfileobj(written, self._file, 1 << 20)

    def close(self) -> None:
        """Remove the temporary file, as `RowWriter.close` does."""
        if self._dataset is not None:
            with self._errors():
                self._dataset.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        block = np.ascontiguousarray(self._waiting[:, : self._filled])
        with self._errors():
            self._dataset.write(block, window=_window(self._top, self._filled, self._width))
        self._checksum = zlib.crc32(block.data, self._checksum)
        self._top += self._filled
        self._filled = 0

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert rasterio's errors to an OutputError."""
        import rasterio

        # Room for one row of blocks, and for the next while it is written.
        cache = max(MIN_CACHE, 2 * self._waiting.nbytes)
        try:
            with gdal(cache), warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                yield
        except (rasterio.errors.RasterioError, ValueError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise OutputError(f"{self._path}: GDAL can't write this GeoTIFF: {reason}") from None


def _place(image: RowImage) -> dict[str, Any]:
    """Return rasterio's options for the georeference of the image."""
    import rasterio

    if image.geo is None:
        return {}
    place: dict[str, Any] = {"transform": rasterio.Affine(*image.geo.transform)}
    if image.geo.crs:
        place["crs"] = rasterio.crs.CRS.from_wkt(image.geo.crs)
    return place


def _window(top: int, height: int, width: int) -> Any:
    from rasterio.windows import Window

    return Window(0, top, width, height)
