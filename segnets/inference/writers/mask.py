"""Masks as PNG: exact ids in a picture that also shows the classes' colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from segnets.errors import ImageError
from segnets.inference.masks import VOID, voc_palette

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction

_MOST_INDEXED = 256


class MaskWriter:
    """Writer of the mask as PNG.

    Up to 256 classes give an indexed picture with the palette, 8 bits per pixel: the values are the ids. More give gray
    values of 16 bits. The planes of a multi-label mask lie one below the other in a picture of C*H rows with 1 bit per
    pixel; `numpy.asarray(Image.open(path)).reshape(C, H, W)` reads them.
    """

    suffix = ".png"

    def write(self, prediction: Prediction, file: BinaryIO) -> None:
        """Write the mask."""
        from PIL import Image

        mask = prediction.checked_mask()
        if mask.ndim == 3:
            Image.fromarray(mask.reshape(-1, mask.shape[2]) != 0).save(file, "PNG")
            return
        lowest, highest = int(mask.min(initial=0)), int(mask.max(initial=0))
        if not 0 <= lowest <= highest < 65536:
            raise ImageError(f"{prediction.source}: mask with ids {lowest}..{highest}; a PNG holds 0..65535")
        if max(len(prediction.classes), highest + 1) > _MOST_INDEXED:
            Image.fromarray(mask.astype(np.uint16)).save(file, "PNG")
            return
        colours = list(prediction.palette)
        if highest >= len(colours):  # 255 without a class: pixels to ignore
            colours += voc_palette(VOID + 1)[len(colours) :]
        image = Image.fromarray(mask.astype(np.uint8), "L")
        image.putpalette(bytes(value for colour in colours for value in colour))
        image.save(file, "PNG", bits=8)
