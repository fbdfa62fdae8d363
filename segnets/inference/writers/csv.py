"""Write the class areas of all images of a run as one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO, cast

from segnets.card import JSON, Colour
from segnets.inference.areas import class_areas, mean_per_class
from segnets.inference.writers.base import Record

if TYPE_CHECKING:
    from segnets.inference.prediction import Prediction

_COLUMNS = ("image", "class id", "class", "pixels", "share", "mean confidence")


class CsvWriter:
    """Writer of `areas.csv`: one row per image and class, including classes that are not in the image.

    The share is the class's fraction of the image's pixels, 0..1. The mean confidence over the class's pixels is 0..1,
    and empty for a class without pixels or a prediction without logits. The file is UTF-8.
    """

    file_name = "areas.csv"

    def record(self, prediction: Prediction) -> JSON:
        """Return the pixels and mean confidence by class id, as `TableWriter.record` does."""
        mask, count = prediction.checked_mask(), len(prediction.classes)
        areas = class_areas(mask, count).tolist()
        means: list[float | None] = [None] * count
        if prediction.maps is not None:
            means = mean_per_class(prediction.confidence, mask, count)
        return areas_record(areas, means)

    def assemble(
        self,
        records: Iterable[Record],
        classes: Sequence[str],
        palette: Sequence[Colour],  # noqa: ARG002
        file: BinaryIO,
    ) -> None:
        """Write the file, as `TableWriter.assemble` does."""
        # Bytes of a file name that can't be decoded are escaped.
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_COLUMNS)
        for name, height, width, record in records:
            present = {row[0]: row[1:] for row in cast("list[list[float | None]]", record)}
            for class_id, class_name in enumerate(classes):
                pixels, mean = present.get(class_id, (0, None))
                share = f"{cast('int', pixels) / (height * width):.6f}"
                table.writerow((name, class_id, class_name, pixels, share, "" if mean is None else f"{mean:.4f}"))
        text.detach()


def areas_record(areas: Sequence[int], means: Sequence[float | None]) -> JSON:
    """Return the record of an image from the pixels and the mean confidence of each class."""
    return [
        [class_id, area, None if mean is None else round(mean, 4)]
        for class_id, (area, mean) in enumerate(zip(areas, means, strict=True))
        if area
    ]
