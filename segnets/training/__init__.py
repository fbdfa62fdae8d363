"""Training and evaluation: configuration, losses, metrics, schedules, checkpoints, reports."""

from segnets.training.config import TrainingConfig
from segnets.training.evaluation import Evaluation, evaluate
from segnets.training.loop import Trainer, train
from segnets.training.losses import loss_of
from segnets.training.optim import build_optimizer
from segnets.training.progress import TrainingResult
from segnets.training.recipes import RECIPES
from segnets.training.schedules import schedule_of
from segnets.training.step import TrainingStep

__all__ = [
    "RECIPES",
    "Evaluation",
    "Trainer",
    "TrainingConfig",
    "TrainingResult",
    "TrainingStep",
    "build_optimizer",
    "evaluate",
    "loss_of",
    "schedule_of",
    "train",
]
