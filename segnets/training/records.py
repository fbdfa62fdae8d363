"""Training log: a CSV file with a row for every logged step and validation."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segnets.card import JSON
from segnets.errors import TrainingError
from segnets.files import atomic_write, cannot_write
from segnets.training.evaluation import Evaluation

# Columns that differ from run to run: seconds of training, continued after an interruption; rate of the steps since
# the last row; and the share of their time spent waiting for data.
TIMES = ("seconds", "images_per_second", "waiting")
COLUMNS = ("step", "epoch", "loss", "lr", "mean_iou", "pixel_accuracy", *TIMES)


@dataclass
class Pace:
    """Training speed since the last log row.

    Attributes:
        images: Number of images.
        seconds: Duration of the steps, in seconds.
        waiting: Time spent waiting for data, in seconds.
    """

    images: int = 0
    seconds: float = 0.0
    waiting: float = 0.0

    @property
    def share_waiting(self) -> float:
        """Share of the time spent waiting for data, 0..1."""
        return self.waiting / max(1e-9, self.seconds)

    def columns(self) -> dict[str, JSON]:
        """Return the speed columns of a log row."""
        seconds = max(1e-9, self.seconds)
        return {"images_per_second": round(self.images / seconds, 2), "waiting": round(self.share_waiting, 4)}


class CsvLog:
    """Training log as CSV.

    Args:
        path: Path of the file.
        step: Step to resume after, or 0. Rows of later steps, from before an interruption, are removed.

    Raises:
        OutputError: If the file can't be written.
        TrainingError: If the run is resumed and the file is not a training log.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        rows = []
        if step and path.exists():
            rows = [row for row in _rows(path) if int(row["step"]) <= step]
        before = float(rows[-1]["seconds"] or 0) if rows else 0.0
        self._started = time.monotonic() - before
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(path) as target:
            target.write(text.getvalue().encode())

    def write(self, row: Mapping[str, JSON]) -> None:
        """Append a row and flush it.

        Raises:
            OutputError: If the file can't be written.
        """
        try:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, COLUMNS).writerow({**row, "seconds": round(time.monotonic() - self._started, 3)})
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def validated(self, _step: int, _evaluation: Evaluation) -> None:
        """Do nothing: the row has the scores."""

    def close(self) -> None:
        """Do nothing: every row was flushed."""


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log, without an incomplete last row.

    Raises:
        TrainingError: If the file can't be read, or is not a training log.
    """
    try:
        text = path.read_text()
        rows = list(csv.DictReader(io.StringIO(text)))
        complete = rows if text.endswith("\n") else rows[:-1]
        if any(not row["step"].isdecimal() or None in row.values() or None in row for row in complete):
            raise ValueError("a row is damaged")
        for row in complete:
            int(row["step"])  # has at most 4,300 digits
            if not 0 <= float(row["seconds"] or 0) < math.inf:
                raise ValueError(f"{row['seconds']!r} seconds")
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as error:
        raise TrainingError(
            f"{path}: can't be read as the log of this run ({error}); restore the file, or delete it and lose the "
            "curves so far"
        ) from None
    return complete
