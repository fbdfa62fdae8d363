"""Writers of predictions, one file each. `WRITERS` maps user-facing names to writers."""

from segnets.inference.writers.base import FileWriter, Record, TableWriter
from segnets.inference.writers.coco import CocoWriter
from segnets.inference.writers.confidence import ConfidenceWriter
from segnets.inference.writers.csv import CsvWriter
from segnets.inference.writers.geojson import GeoJsonWriter
from segnets.inference.writers.mask import MaskWriter
from segnets.inference.writers.overlay import OverlayWriter
from segnets.inference.writers.probabilities import ProbabilitiesWriter

WRITERS: dict[str, FileWriter | TableWriter] = {
    "mask": MaskWriter(),
    "overlay": OverlayWriter(),
    "overlay-png": OverlayWriter(lossless=True),
    "probabilities": ProbabilitiesWriter(),
    "confidence": ConfidenceWriter(),
    "geojson": GeoJsonWriter(),
    "coco": CocoWriter(),
    "csv": CsvWriter(),
}

# For `Prediction.save`, longer suffixes first.
SUFFIXES: dict[str, FileWriter | TableWriter] = {
    ".overlay.png": WRITERS["overlay-png"],
    ".confidence.png": WRITERS["confidence"],
    ".png": WRITERS["mask"],
    ".jpg": WRITERS["overlay"],
    ".jpeg": WRITERS["overlay"],
    ".npz": WRITERS["probabilities"],
    ".geojson": WRITERS["geojson"],
    ".json": WRITERS["coco"],
    ".csv": WRITERS["csv"],
}

__all__ = ["SUFFIXES", "WRITERS", "FileWriter", "Record", "TableWriter"]
