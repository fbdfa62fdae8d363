"""Sum the class areas of a large image row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segnets.card import JSON
from segnets.inference.areas import class_areas, mean_per_class
from segnets.inference.writers.csv import areas_record
from segnets.inference.writers.rows import RowImage

if TYPE_CHECKING:
    from segnets.inference.tiles import Rows


class AreaRows:
    """Sums of pixels and of confidence by class, for the record of `CsvWriter`.

    Args:
        image: Image whose rows follow.
    """

    def __init__(self, image: RowImage) -> None:
        self._areas = np.zeros(len(image.classes), dtype=np.int64)
        self._sums = np.zeros(len(image.classes), dtype=np.float64)

    def rows(self, rows: Rows) -> None:
        """Add rows, which must have the confidence."""
        assert rows.confidence is not None
        areas = class_areas(rows.mask, len(self._areas))
        means = mean_per_class(rows.confidence, rows.mask, len(self._areas))
        self._areas += areas
        self._sums += areas * np.array([mean or 0.0 for mean in means])

    def record(self) -> JSON:
        """Return what `CsvWriter.record` returns for the whole image."""
        means = self._sums / np.maximum(self._areas, 1)
        return areas_record(self._areas.tolist(), means.tolist())
