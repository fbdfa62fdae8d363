"""The log of a training: a row of a CSV file for every logged step and validation."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segnets.card import JSON
from segnets.files import atomic_write
from segnets.training.evaluation import Evaluation

# Columns that differ from run to run: seconds since the start of the process, rate of the steps since the last row, and
# the part of their time that was spent waiting for data.
TIMES = ("seconds", "images_per_second", "waiting")
COLUMNS = ("step", "epoch", "loss", "lr", "mean_iou", "pixel_accuracy", *TIMES)


@dataclass
class Pace:
    """Rate of the steps since the last row of the log.

    Attributes:
        images: Number of images.
        seconds: Time of the steps.
        waiting: Part of the time that was spent waiting for data, in seconds.
    """

    images: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    def columns(self) -> dict[str, JSON]:
        """Return the columns of a row."""
        seconds = max(1e-9, self.seconds)
        return {"images_per_second": round(self.images / seconds, 2), "waiting": round(self.waiting / seconds, 4)}


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

    def validated(self, _step: int, _evaluation: Evaluation) -> None:
        """Do nothing: the row has the scores."""

    def close(self) -> None:
        """Do nothing: every row was flushed."""
