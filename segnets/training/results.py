"""Files of an evaluation: scores, tables and pictures of the worst images."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segnets.errors import OutputError
from segnets.files import atomic_write, cannot_write
from segnets.training.evaluation import Evaluation
from segnets.training.metrics import ConfusionMatrix
from segnets.training.pictures import draw_example
from segnets.training.report import write_report

_STEM_BYTES = 100  # of the name of a picture; file systems allow 255 for the whole name


def _prepare_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Create a folder for the files of an evaluation.

    Returns:
        Path of the folder.

    Raises:
        OutputError: If the folder can't be created, or is not empty and `overwrite` is False.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not overwrite and any(path.iterdir()):
            raise OutputError(f"{path}: is not empty; choose another folder, or ask to overwrite (--force)")
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise OutputError(f"{path}: is not a folder; choose another name") from None
        raise cannot_write(path, error) from None
    return path


@contextmanager
def reserved_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[None]:
    """Create a folder for the files of an evaluation; remove it and its new parents if an error leaves it empty.

    Raises:
        OutputError: If the folder can't be created, or is not empty and `overwrite` is False.
    """
    path = Path(folder)
    new = [each for each in (path, *path.parents) if not os.path.lexists(each)]  # False for a name that is too long
    try:
        _prepare_folder(folder, overwrite=overwrite)
        yield
    except BaseException:
        for each in new:
            with suppress(OSError):  # not empty, or never created
                each.rmdir()
        raise


def save_evaluation(evaluation: Evaluation, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write an evaluation: `scores.json`, `images.csv`, `confusion.csv`, `report.html`, and `worst/` with pictures.

    Args:
        evaluation: Evaluation to write.
        folder: Output folder, created if missing.
        overwrite: Whether the folder may contain files. Files with the same names are replaced.

    Returns:
        Path of the folder.

    Raises:
        OutputError: If the folder is not empty, or a file can't be written.
    """
    from PIL import Image

    path = _prepare_folder(folder, overwrite=overwrite)
    _write(path / "scores.json", f"{json.dumps(evaluation.to_json(), indent=2)}\n".encode())
    _write(path / "images.csv", images_csv(evaluation).encode("utf-8", "backslashreplace"))
    if isinstance(evaluation.counts, ConfusionMatrix):
        _write(path / "confusion.csv", confusion_csv(evaluation).encode())
    write_report(path / "report.html", evaluation)
    if evaluation.worst:
        (path / "worst").mkdir(exist_ok=True)
    for number, example in enumerate(evaluation.worst, 1):
        content = io.BytesIO()
        Image.fromarray(draw_example(evaluation, example)).save(content, "PNG")
        stem = re.sub(r"[^\w.-]+", "_", example.score.name).encode()[-_STEM_BYTES:].decode(errors="ignore")
        _write(path / "worst" / f"{number:02}_{stem}.png", content.getvalue())
    return path


def images_csv(evaluation: Evaluation) -> str:
    """Return a CSV table of the images, in split order: pixels, accuracy, mean IoU and the IoU of each class.

    The cell of a class in neither truth nor prediction is empty.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "pixels", "pixel_accuracy", "mean_iou", *evaluation.classes])
    for image in evaluation.images:
        scores = [image.accuracy, image.mean_iou, *image.iou.tolist()]
        table.writerow([image.name, image.pixels, *("" if math.isnan(each) else f"{each:.6f}" for each in scores)])
    return text.getvalue()


def confusion_csv(evaluation: Evaluation) -> str:
    """Return the confusion matrix as a CSV table: pixels of each true class (row) by predicted class (column)."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["truth \\ prediction", *evaluation.classes])
    for name, row in zip(evaluation.classes, evaluation.counts.counts.tolist(), strict=True):
        table.writerow([name, *row])
    return text.getvalue()


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)
