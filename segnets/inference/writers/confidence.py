"""Write the confidence as a gray picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from segnets.inference.writers.png import write_png

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction


class ConfidenceWriter:
    """Writer of the confidence as an 8-bit gray PNG: 0 means 0, 255 means 1."""

    suffix = ".confidence.png"

    def write(self, prediction: Prediction, file: BinaryIO) -> None:
        """Write the confidence, as `FileWriter.write` does."""
        write_png(file, gray_of(prediction.confidence))


def gray_of(confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Convert confidences of 0..1, (H, W), to gray values of 0..255, (H, W) uint8."""
    gray: npt.NDArray[np.uint8] = np.rint(confidence * np.float32(255)).astype(np.uint8)
    return gray
