"""Write reduced overlays of large images."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from segnets.inference.prediction import Prediction
from segnets.inference.writers.overlay import OverlayWriter
from segnets.inference.writers.rows import RowImage

if TYPE_CHECKING:
    from segnets.inference.tiles import Rows

MAX_SIDE = 4096


class OverlayRows:
    """Writer of the overlay with its legend, reduced by a whole number so that no side exceeds 4096 pixels.

    Each pixel shows the mean of a square of the image, and the class of the pixel in its middle. The shares in the
    legend are therefore estimates.

    Args:
        lossless: Whether to write PNG.
    """

    needs_confidence = False
    needs_logits = False

    def __init__(self, *, lossless: bool = False) -> None:
        self._writer = OverlayWriter(lossless=lossless)
        self.suffix = self._writer.suffix

    def start(self, image: RowImage, file: BinaryIO) -> None:
        """Begin the file, as `RowWriter.start` does."""
        self._image, self._file = image, file
        self._factor = reduction(image.height, image.width)
        self._waiting: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]] = []
        # Allocated at once, with the first rows: many small arrays that stay would keep freed memory from being reused.
        self._picture: tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]] | None = None
        self._filled = 0

    def rows(self, rows: Rows) -> None:
        """Add rows, as `RowWriter.rows` does."""
        self._waiting.append((rows.image[:, :, : 3 if rows.image.shape[2] >= 3 else 1], rows.mask))
        if sum(len(pixels) for pixels, _ in self._waiting) >= self._factor:
            self._reduce(self._factor)

    def finish(self) -> None:
        """Complete the file, as `RowWriter.finish` does."""
        self._reduce(1)
        assert self._picture is not None  # an image has rows
        pixels, mask = self._picture
        prediction = Prediction(
            source=self._image.source,
            mask=mask,
            image=pixels,
            classes=self._image.classes,
            palette=self._image.palette,
            decoding=self._image.decoding,
        )
        self._writer.write(prediction, self._file)

    def close(self) -> None:
        """Do nothing."""

    def _reduce(self, whole: int) -> None:
        """Reduce the waiting rows, as many as are a multiple of `whole`."""
        if not self._waiting:
            return
        from PIL import Image

        pixels = np.concatenate([pixels for pixels, _ in self._waiting])
        mask = np.concatenate([mask for _, mask in self._waiting], axis=-2)
        count = len(pixels) // whole * whole
        self._waiting = [(pixels[count:], mask[..., count:, :])] if count < len(pixels) else []
        factor = self._factor
        if factor == 1:
            small = pixels[:count]
        else:
            picture = Image.fromarray(pixels[:count] if pixels.shape[2] == 3 else pixels[:count, :, 0])
            reduced = np.asarray(picture.reduce(factor))
            small = reduced.reshape(*reduced.shape[:2], -1)
        rows = np.minimum(np.arange(small.shape[0]) * factor + factor // 2, count - 1)
        columns = np.minimum(np.arange(small.shape[1]) * factor + factor // 2, self._image.width - 1)
        if self._picture is None:
            height, width = -(-self._image.height // factor), small.shape[1]
            self._picture = (
                np.empty((height, *small.shape[1:]), dtype=np.uint8),
                np.empty((*mask.shape[:-2], height, width), dtype=mask.dtype),
            )
        target = slice(self._filled, self._filled + len(small))
        self._picture[0][target] = small
        self._picture[1][..., target, :] = mask[..., rows[:, None], columns[None, :]]
        self._filled += len(small)


def reduction(height: int, width: int) -> int:
    """Return the integer factor by which an overlay of this height and width, in pixels, is reduced."""
    return -(-max(height, width) // MAX_SIDE)
