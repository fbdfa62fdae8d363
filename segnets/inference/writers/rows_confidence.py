"""Write the confidence as a gray picture, row by row. The bytes equal those of `ConfidenceWriter`."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from segnets.inference.writers.confidence import gray_of
from segnets.inference.writers.png import PngRows
from segnets.inference.writers.rows import RowImage

if TYPE_CHECKING:
    from segnets.inference.tiles import Rows


class ConfidenceRows:
    """Writer of the confidence as an 8-bit gray PNG: 0 means 0, 255 means 1."""

    suffix = ".confidence.png"
    needs_confidence = True
    needs_logits = False

    def start(self, image: RowImage, file: BinaryIO) -> None:
        """Begin the file, as `RowWriter.start` does."""
        self._png = PngRows(file, image.height, image.width)

    def rows(self, rows: Rows) -> None:
        """Add rows, as `RowWriter.rows` does."""
        assert rows.confidence is not None
        self._png.rows(gray_of(rows.confidence))

    def finish(self) -> None:
        """Complete the file, as `RowWriter.finish` does."""
        self._png.finish()

    def close(self) -> None:
        """Do nothing."""
