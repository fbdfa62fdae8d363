"""Write masks as PNG: exact ids in a picture that also shows the class colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from segnets.errors import ImageError
from segnets.inference.masks import VOID
from segnets.inference.writers.png import write_png
from segnets.palettes import voc_palette

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction

MOST_INDEXED = 256
BLACK_AND_WHITE = ((0, 0, 0), (255, 255, 255))


class MaskWriter:
    """Writer of the mask as PNG.

    Up to 256 classes give an indexed picture with the palette: the values are the ids. More give 16-bit
    gray values. The planes of a multi-label mask are stacked vertically, as 0 and 1 in a picture of C*H rows;
    `numpy.asarray(Image.open(path)).reshape(C, H, W)` reads them.
    """

    suffix = ".png"

    def write(self, prediction: Prediction, file: BinaryIO) -> None:
        """Write the mask, as `FileWriter.write` does."""
        mask = prediction.checked_mask()
        if mask.ndim == 3:
            write_png(file, (mask != 0).reshape(-1, mask.shape[2]).astype(np.uint8), BLACK_AND_WHITE)
            return
        lowest, highest = int(mask.min(initial=0)), int(mask.max(initial=0))
        if not 0 <= lowest <= highest < 65536:
            raise ImageError(
                f"{prediction.source}: the mask has ids {lowest}..{highest}, but a PNG holds only 0..65535"
            )
        if max(len(prediction.classes), highest + 1) > MOST_INDEXED:
            write_png(file, mask.astype(np.uint16))
            return
        colours = list(prediction.palette)
        if highest >= len(colours):  # 255 without a class marks pixels to ignore
            colours += voc_palette(VOID + 1)[len(colours) :]
        write_png(file, mask.astype(np.uint8), colours)
