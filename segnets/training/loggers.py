"""Loggers that record a run while it trains. The CSV file is always written; the others build on it.

A custom logger needs three methods (see `Logger`). Pass it to `Trainer` or `train`:

    class Printer:
        def write(self, row): print(row)
        def validated(self, step, evaluation): print(step, evaluation.mean_iou)
        def close(self): pass
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from segnets.card import JSON
from segnets.errors import TrainingError
from segnets.training.config import TrainingConfig
from segnets.training.evaluation import Evaluation
from segnets.training.pictures import draw_example
from segnets.training.report import read_history, write_report

EXAMPLES = 4  # number of worst and of best validation images shown in reports
_TENSORBOARD_PICTURES = 2


class Logger(Protocol):
    """Receiver of a run's records. Only the first process calls it, in step order."""

    def write(self, row: Mapping[str, JSON]) -> None:
        """Record a row of the log: "step" and "epoch", and "loss" and "lr", or the scores of a validation."""

    def validated(self, step: int, evaluation: Evaluation) -> None:
        """Record a validation after `step` steps. `write` has already received its row."""

    def close(self) -> None:
        """Finish and release resources."""


class ReportLogger:
    """HTML report, rewritten after each validation; without validation, after each epoch and at the end.

    Args:
        path: Path of the report.
        log: Path of the CSV file with the rows to plot, including those from before an interruption.
        config: Configuration to show in the report.
    """

    def __init__(self, path: Path, log: Path, config: TrainingConfig) -> None:
        self._path, self._log, self._config = path, log, config
        self._epoch: JSON = None

    def write(self, row: Mapping[str, JSON]) -> None:
        """Rewrite the report from the CSV file if an epoch has passed without a validation."""
        if self._epoch not in (None, row["epoch"]):
            self._write_curves()
        self._epoch = row["epoch"]

    def validated(self, _step: int, evaluation: Evaluation) -> None:
        """Write the report."""
        write_report(self._path, evaluation, history=read_history(self._log), config=self._config)

    def close(self) -> None:
        """Write the final report, if there was no validation."""
        self._write_curves()

    def _write_curves(self) -> None:
        """Write a report without scores, unless the run has been validated."""
        history = read_history(self._log)
        if not history.mean_iou:
            write_report(self._path, None, history=history, config=self._config)


class TensorBoardLogger:
    """TensorBoard log: losses, learning rate, scores, and pictures of the worst images.

    Args:
        folder: Folder of the event files.
        step: Step to resume after. TensorBoard hides the records of later steps.

    Raises:
        TrainingError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise TrainingError(
                "tensorboard=true needs TensorBoard, which is not installed: pip install 'segnets[tensorboard]'"
            )
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer: Any = writer(str(folder), purge_step=step + 1 if step else None)

    def write(self, row: Mapping[str, JSON]) -> None:
        """Record the numbers of a row."""
        step = row["step"]
        for name, value in row.items():
            if name not in ("step", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(f"validation/{name}" if "loss" not in row else f"training/{name}", value, step)

    def validated(self, step: int, evaluation: Evaluation) -> None:
        """Record the IoU of each class, and pictures of the worst images."""
        for name, iou in zip(evaluation.classes, evaluation.counts.iou.tolist(), strict=True):
            if math.isfinite(iou):
                self._writer.add_scalar(f"iou/{name}", iou, step)
        for number, example in enumerate(evaluation.worst[:_TENSORBOARD_PICTURES], 1):
            self._writer.add_image(f"worst/{number}", draw_example(evaluation, example), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


def loggers_of(config: TrainingConfig, folder: Path, *, log: Path, report: Path, step: int = 0) -> Sequence[Logger]:
    """Build the loggers that a configuration enables, besides the CSV file.

    Args:
        config: Training options. Only `tensorboard` is read.
        folder: Folder of the run.
        log: Path of the CSV file.
        report: Path of the report.
        step: Step to resume after, or 0.

    Raises:
        TrainingError: If TensorBoard is enabled but not installed.
    """
    loggers: list[Logger] = [ReportLogger(report, log, config)]
    if config.tensorboard:
        loggers.append(TensorBoardLogger(folder / "tensorboard", step))
    return loggers
