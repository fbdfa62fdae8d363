"""The log of a training: a row of a CSV file for every logged step and validation."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path

from segnets.card import JSON
from segnets.files import atomic_write

COLUMNS = ("step", "epoch", "loss", "lr", "mean_iou", "pixel_accuracy", "seconds", "images_per_second")
TIMES = ("seconds", "images_per_second")


class CsvLog:
    """Log of a training as CSV.

    Args:
        path: The file.
        step: Step after which the training goes on: rows of later steps, from before an interruption, are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._started = time.monotonic()
        rows = []
        if step and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(path) as target:
            target.write(text.getvalue().encode())

    def write(self, row: Mapping[str, JSON]) -> None:
        """Append a row and flush it."""
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({**row, "seconds": round(time.monotonic() - self._started, 3)})
