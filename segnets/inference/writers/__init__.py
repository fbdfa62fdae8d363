"""Writers of predictions, one file each. `WRITERS` has them by the name that users give."""

from segnets.inference.writers.base import FileWriter, Record, TableWriter
from segnets.inference.writers.mask import MaskWriter
from segnets.inference.writers.overlay import OverlayWriter

WRITERS: dict[str, FileWriter | TableWriter] = {
    "mask": MaskWriter(),
    "overlay": OverlayWriter(),
    "overlay-png": OverlayWriter(lossless=True),
}

# For `Prediction.save`, longer suffixes first.
SUFFIXES: dict[str, FileWriter | TableWriter] = {
    ".overlay.png": WRITERS["overlay-png"],
    ".png": WRITERS["mask"],
    ".jpg": WRITERS["overlay"],
    ".jpeg": WRITERS["overlay"],
}

__all__ = ["SUFFIXES", "WRITERS", "FileWriter", "Record", "TableWriter"]
