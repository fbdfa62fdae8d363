"""Progress and result of a training run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from segnets.card import JSON
from segnets.console import counted


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training run.

    Attributes:
        out: Run folder.
        steps: Number of training steps.
        epochs: Number of epochs.
        scores: Scores of the last validation: "mean_iou", "pixel_accuracy" and others, 0..1; empty without validation.
        best: Best mean IoU of all validations, 0..1, or None without validation.
    """

    out: Path
    steps: int
    epochs: int
    scores: Mapping[str, JSON] = field(default_factory=dict)
    best: float | None = None

    def __str__(self) -> str:
        text = f"{self.out}: {counted(self.epochs, 'epoch')}, {counted(self.steps, 'step')}"
        if self.best is None:
            return text
        return f"{text}; mean IoU {self.scores['mean_iou']:.4f} at the end, {self.best:.4f} at best"


@dataclass(frozen=True)
class StepReport:
    """Report of one completed step, for a progress display.

    Attributes:
        step: Number of the step, from 1.
        steps: Total number of steps.
        epoch: Number of the epoch, from 1.
        epochs: Total number of epochs.
        loss: Loss of the step.
        images: Number of images per step, over all processes.
        waiting: Share of the time since the last log row that this process waited for data, 0..1.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    images: int
    waiting: float = 0.0


class SlowWork:
    """Progress messages for slow work before the first step: the first after 5 seconds, then one every 30 seconds.

    Args:
        tell: Callback that receives the messages.
        message: Description of the work, for example "images decoded into memory".
    """

    _FIRST, _NEXT = 5.0, 30.0  # seconds

    def __init__(self, tell: Callable[[str], None], message: str) -> None:
        self._tell, self._message = tell, message
        self._due = time.monotonic() + self._FIRST

    def __call__(self, done: int, total: int) -> None:
        """Report progress if a message is due."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._NEXT
            self._tell(f"{done:,} of {total:,} {self._message}")


@dataclass
class Progress:
    """Training progress that a checkpoint stores, besides the weights.

    Attributes:
        loss: Sum of the losses since the last log row.
        losses: Number of these losses.
        validated: Step at which the network was last validated and saved.
        best: Best mean IoU so far, or None.
        scores: Scores of the last validation.
    """

    loss: float = 0.0
    losses: int = 0
    validated: int = 0
    best: float | None = None
    scores: dict[str, JSON] = field(default_factory=dict)
