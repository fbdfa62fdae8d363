"""Write masks as PNG, row by row. The bytes equal those of `MaskWriter`."""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING, BinaryIO

import numpy as np

from segnets.inference.writers.mask import BLACK_AND_WHITE, MOST_INDEXED
from segnets.inference.writers.png import PngRows
from segnets.inference.writers.rows import RowImage

if TYPE_CHECKING:
    from segnets.inference.tiles import Rows

_ROWS = 256  # rows to write at a time


class MaskRows:
    """Writer of the mask as PNG.

    The planes of a multi-label mask are stacked vertically. They are kept in temporary files of one bit per pixel.
    """

    suffix = ".png"
    needs_confidence = False
    needs_logits = False

    def start(self, image: RowImage, file: BinaryIO) -> None:
        """Begin the file, as `RowWriter.start` does."""
        self._width = image.width
        self._planes: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(image.planes)]  # noqa: SIM115
        if image.planes:
            self._png = PngRows(file, image.planes * image.height, image.width, palette=BLACK_AND_WHITE)
            self._dtype: type[np.integer] = np.uint8
        else:
            deep = len(image.classes) > MOST_INDEXED
            palette = () if deep else image.palette
            self._png = PngRows(file, image.height, image.width, palette=palette, bits=16 if deep else 8)
            self._dtype = np.uint16 if deep else np.uint8

    def rows(self, rows: Rows) -> None:
        """Add rows, as `RowWriter.rows` does."""
        if not self._planes:
            self._png.rows(rows.mask.astype(self._dtype, copy=False))
            return
        for file, plane in zip(self._planes, rows.mask, strict=True):
            file.write(np.packbits(plane, axis=1).tobytes())

    def finish(self) -> None:
        """Complete the file, as `RowWriter.finish` does."""
        row_bytes = -(-self._width // 8)
        for file in self._planes:
            file.seek(0)
            while data := file.read(_ROWS * row_bytes):
                packed = np.frombuffer(data, np.uint8).reshape(-1, row_bytes)
                self._png.rows(np.unpackbits(packed, axis=1, count=self._width))
        self._png.finish()

    def close(self) -> None:
        """Remove the temporary files, as `RowWriter.close` does."""
        for file in self._planes:
            file.close()
