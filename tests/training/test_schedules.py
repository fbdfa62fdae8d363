"""Schedules of the learning rate, compared with torch's."""

from __future__ import annotations

import warnings

import pytest
import torch

from segnets.training.config import TrainingConfig
from segnets.training.schedules import schedule_of


def rates_of_torch(schedule: str, warmup: int, steps: int) -> list[float]:
    """The learning rates of torch's schedulers, put together as in torchvision's references."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedulers = torch.optim.lr_scheduler
    main: torch.optim.lr_scheduler.LRScheduler
    if schedule == "poly":
        main = schedulers.PolynomialLR(optimizer, total_iters=steps - warmup, power=0.9)
    else:
        main = schedulers.CosineAnnealingLR(optimizer, T_max=steps - warmup)
    if warmup:
        rising = schedulers.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
        main = schedulers.SequentialLR(optimizer, [rising, main], milestones=[warmup])
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR calls its own step with an epoch, which is deprecated
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            main.step()
    return rates


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
@pytest.mark.parametrize("warmup_epochs", [0, 1, 1.5])
def test_schedules_equal_those_of_torch(schedule: str, warmup_epochs: float) -> None:
    config = TrainingConfig(schedule=schedule, epochs=5, warmup_epochs=warmup_epochs)
    factor = schedule_of(config, steps_per_epoch=4)
    expected = rates_of_torch(schedule, warmup=round(4 * warmup_epochs), steps=20)
    assert [factor(step) for step in range(20)] == pytest.approx(expected, rel=1e-12)


def test_constant_and_the_ends() -> None:
    factor = schedule_of(TrainingConfig(schedule="constant", epochs=2, warmup_epochs=1), steps_per_epoch=10)
    assert [factor(step) for step in (0, 5, 10, 999)] == pytest.approx([0.01, 0.505, 1.0, 1.0])
    for schedule in ("poly", "cosine"):
        factor = schedule_of(TrainingConfig(schedule=schedule, epochs=2, warmup_epochs=0), steps_per_epoch=10)
        assert (factor(0), factor(20), factor(25)) == (1.0, 0.0, 0.0)
        assert factor(19) > 0  # the last step still learns


def test_a_training_of_warm_up_only() -> None:
    factor = schedule_of(TrainingConfig(epochs=1, warmup_epochs=1), steps_per_epoch=4)
    assert [factor(step) for step in range(4)] == pytest.approx([0.01, 0.2575, 0.505, 0.7525])
