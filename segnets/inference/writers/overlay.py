"""Write overlays with a legend."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

from segnets.errors import ImageError

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction

_QUALITY = 90
_LARGEST_JPEG = 65_535  # pixels per side


class OverlayWriter:
    """Writer of the image under the colours of its mask, with the legend below, as JPEG or PNG.

    Args:
        lossless: Whether to write PNG.
    """

    def __init__(self, *, lossless: bool = False) -> None:
        self._lossless = lossless

    @property
    def suffix(self) -> str:
        """Suffix of the file name, with the dot."""
        return ".overlay.png" if self._lossless else ".overlay.jpg"

    def write(self, prediction: Prediction, file: BinaryIO) -> None:
        """Write the overlay.

        Raises:
            ImageError: If a side is too large for JPEG.
        """
        from PIL import Image

        picture = Image.fromarray(prediction.picture())
        encoded = io.BytesIO()  # Pillow overlooks incomplete writes to files, as on a full disk
        if self._lossless:
            picture.save(encoded, "PNG", compress_level=3)
            file.write(encoded.getbuffer())
            return
        if max(picture.size) > _LARGEST_JPEG:
            raise ImageError(
                f"{prediction.source}: the overlay of {picture.width} x {picture.height} pixels is too large for JPEG "
                f"({_LARGEST_JPEG} per side); write it as PNG (overlay-png, .overlay.png)"
            )
        # Without subsampling, which would blur the outlines and the legend.
        picture.save(encoded, "JPEG", quality=_QUALITY, subsampling=0)
        file.write(encoded.getbuffer())
