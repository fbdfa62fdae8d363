"""Dry run: two training steps and an estimate of memory and time, without writing files."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch

from segnets.console import counted
from segnets.data import DataSet
from segnets.training.assembly import Assembly
from segnets.training.config import TrainingConfig
from segnets.training.distributed import Ranks
from segnets.training.evaluation import evaluate


@dataclass(frozen=True)
class DryRun:
    """Result of `dry_run`.

    Attributes:
        network: Name of the network.
        recipe: Name of the recipe.
        parameters: Number of its parameters.
        steps: Total number of training steps.
        images: Images per step, over all processes.
        loss: Loss of the first batch.
        step_seconds: Seconds per step.
        validation_seconds: Seconds per validation; 0 if there is none.
        validations: Number of validations.
        memory: Peak memory in bytes, of the GPU if training runs on one, else of the process.
        disk: Estimated size in bytes of two checkpoints, the previous one and the next, and of the weights files.
    """

    network: str
    recipe: str
    parameters: int
    steps: int
    images: int
    loss: float
    step_seconds: float
    validation_seconds: float
    validations: int
    memory: int
    disk: int

    def lines(self) -> list[str]:
        """Format the result as lines of text."""
        total = self.steps * self.step_seconds + self.validations * self.validation_seconds
        return [
            f"network      {self.network}, {self.parameters / 1e6:.2f} million parameters",
            f"recipe       {self.recipe}",
            f"loss         {self.loss:.4f} for the first batch",
            f"memory       {self.memory / 1e9:.2f} GB at most",
            f"speed        {self.images / self.step_seconds:.1f} images/s, a step of {self.images} in "
            f"{self.step_seconds:.2f} s",
            f"time         about {timedelta(seconds=round(total))} for {counted(self.steps, 'step')} and "
            f"{counted(self.validations, 'validation')}",
            f"disk         {self.disk / 1e6:.0f} MB for checkpoints and weights",
        ]


def dry_run(config: TrainingConfig, data: DataSet, ranks: Ranks, tell: Callable[[str], None]) -> DryRun:
    """Run two training steps on one batch, and validate on one image. All processes must call this.

    Args:
        config: Training options.
        data: Data set to train on.
        ranks: Rank, number of processes and device of this process.
        tell: Callback that receives each message for the user.

    Returns:
        Loss, memory, times and sizes.

    Raises:
        SegnetsError: If the network can't be built, a sample can't be read, or a step fails.
    """
    parts = Assembly(config, data, ranks, tell=tell)
    with torch.random.fork_rng([ranks.device] if ranks.device.type == "cuda" else []):
        parts.build()
        example = next(parts.batches())
        loss = float(parts.make_step(example).loss)  # the first step is slower
        started = _now(ranks)
        parts.make_step(example)
        step_seconds = _now(ranks) - started
    samples, validation_seconds = data.splits.get(config.val_split, ()), 0.0
    if samples:
        started = _now(ranks)
        model = parts.step.averaged_model.eval()
        evaluate(model, data, config.val_split, device=ranks.device.type, samples=samples[:1])
        validation_seconds = (_now(ranks) - started) * len(samples) / ranks.world
    return DryRun(
        network=config.model,
        recipe=config.recipe,
        parameters=sum(parameter.numel() for parameter in parts.step.model.parameters()),
        steps=parts.total,
        images=parts.images,
        loss=loss,
        step_seconds=step_seconds,
        validation_seconds=validation_seconds,
        validations=-(-config.epochs // config.validate_every) if samples else 0,
        memory=_peak_memory(ranks),
        disk=2 * (parts.step.checkpoint_bytes() + parts.step.weights_bytes()),
    )


def _peak_memory(ranks: Ranks) -> int:
    if ranks.device.type == "cuda":
        return torch.cuda.max_memory_allocated(ranks.device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _now(ranks: Ranks) -> float:
    """Return the time in seconds after pending GPU work has finished."""
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)
    return time.perf_counter()
