"""Confidence as a gray picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from segnets.inference.writers.png import write_png

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction


class ConfidenceWriter:
    """Writer of the confidence as a gray PNG of 8 bits: 0 is 0, 255 is 1."""

    suffix = ".confidence.png"

    def write(self, prediction: Prediction, file: BinaryIO) -> None:
        """Write the confidence, as `FileWriter.write` does."""
        write_png(file, gray_of(prediction.confidence))


def gray_of(confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the gray values of a confidence of 0..1."""
    gray: npt.NDArray[np.uint8] = np.rint(confidence * np.float32(255)).astype(np.uint8)
    return gray
