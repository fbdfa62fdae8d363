"""Training and evaluation: configuration, losses, metrics, schedules, checkpoints, reports."""

from segnets.training.config import TrainingConfig
from segnets.training.recipes import RECIPES

__all__ = ["RECIPES", "TrainingConfig"]
