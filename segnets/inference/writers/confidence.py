"""Confidence as a gray picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from segnets.inference.writers.png import write_png

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction


class ConfidenceWriter:
    """Writer of the confidence as a gray PNG of 8 bits: 0 is 0, 255 is 1."""

    suffix = ".confidence.png"

    def write(self, prediction: Prediction, file: BinaryIO) -> None:
        """Write the confidence, as `FileWriter.write` does."""
        write_png(file, np.rint(prediction.confidence * np.float32(255)).astype(np.uint8))
