"""Learning rate schedules: functions from a step to a factor on the learning rate.

They depend on the step alone, so a checkpoint stores no schedule state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from segnets.training.config import TrainingConfig

# Factor at the first step of a warm-up, as in torchvision's references (--lr-warmup-decay).
WARMUP_START = 0.01


def poly(step: int, steps: int, power: float = 0.9) -> float:
    """Return `(1 - step / steps) ** power`, like torch's `PolynomialLR`, and 0 after the last step.

    Args:
        step: Number of the step, from 0.
        steps: Total number of steps.
        power: Exponent.
    """
    return float((1 - min(step, steps) / steps) ** power)


def cosine(step: int, steps: int) -> float:
    """Return the factor of a cosine schedule, which falls from 1 at step 0 to 0 at the last step and stays there."""
    return (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


def constant(step: int) -> float:  # noqa: ARG001
    """Return 1."""
    return 1.0


def warmed_up(step: int, warmup: int, after: Callable[[int], float], start: float = WARMUP_START) -> float:
    """Return the factor of a schedule with linear warm-up.

    Args:
        step: Number of the step, from 0.
        warmup: Number of warm-up steps, in which the factor rises from `start` to 1.
        after: Schedule after the warm-up, counting steps from 0.
        start: Factor at step 0.
    """
    return start + (1 - start) * step / warmup if step < warmup else after(step - warmup)


def schedule_of(config: TrainingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Build the schedule of a run: a function from the step number, from 0, to the factor on `lr`.

    Args:
        config: Options `schedule`, `power`, `epochs` and `warmup_epochs`.
        steps_per_epoch: Number of optimizer steps in an epoch.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    steps = max(1, config.epochs * steps_per_epoch - warmup)
    schedules: dict[str, Callable[[int], float]] = {
        "poly": partial(poly, steps=steps, power=config.power),
        "cosine": partial(cosine, steps=steps),
        "constant": constant,
    }
    return partial(warmed_up, warmup=warmup, after=schedules[config.schedule])
