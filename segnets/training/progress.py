"""How far a training has come, and its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from segnets.card import JSON


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes:
        out: Folder with the files.
        steps: Number of steps.
        epochs: Number of epochs.
        scores: Scores of the last validation: "mean_iou", "pixel_accuracy" and others; empty without a validation.
        best: Best mean IoU of all validations, or None.
    """

    out: Path
    steps: int
    epochs: int
    scores: Mapping[str, JSON] = field(default_factory=dict)
    best: float | None = None

    def __str__(self) -> str:
        text = f"{self.out}: {self.epochs} epochs, {self.steps:,} steps"
        if self.best is None:
            return text
        return f"{text}; mean IoU {self.scores['mean_iou']:.4f} at the end, {self.best:.4f} at best"


@dataclass(frozen=True)
class StepReport:
    """A step that is done, for a display of the progress.

    Attributes:
        step: Number of the step, from 1.
        steps: Number of all steps.
        epoch: Number of the epoch, from 1.
        epochs: Number of all epochs.
        loss: Loss of the step.
        images: Images per step, of all processes.
        waiting: Part of the time since the last row of the log that this process waited for data, 0..1.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    images: int
    waiting: float = 0.0


class SlowWork:
    """Messages about work before the first step: none in the first seconds, then one every half minute.

    Args:
        tell: Called with the messages.
        message: What is done, for example "images are decoded into memory".
    """

    _FIRST, _NEXT = 5.0, 30.0  # seconds

    def __init__(self, tell: Callable[[str], None], message: str) -> None:
        self._tell, self._message = tell, message
        self._due = time.monotonic() + self._FIRST

    def __call__(self, done: int, total: int) -> None:
        """Note how much is done."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._NEXT
            self._tell(f"{done:,} of {total:,} {self._message}")


@dataclass
class Progress:
    """What changes during a training, apart from the weights.

    Attributes:
        loss: Sum of the losses since the last row of the log.
        losses: Their number.
        validated: Step at which the network was last validated and saved.
        best: Best mean IoU so far, or None.
        scores: Scores of the last validation.
    """

    loss: float = 0.0
    losses: int = 0
    validated: int = 0
    best: float | None = None
    scores: dict[str, JSON] = field(default_factory=dict)
