"""Validation during training: scores and weights files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from segnets import __version__
from segnets.card import JSON
from segnets.data.dataset import DataSet
from segnets.training.config import TrainingConfig
from segnets.training.distributed import Ranks
from segnets.training.evaluation import Evaluation, evaluate
from segnets.training.loggers import EXAMPLES
from segnets.weights import save


def validate(
    model: nn.Module,
    data: DataSet,
    config: TrainingConfig,
    ranks: Ranks,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a network on the validation split, shared among the processes. All processes must call this.

    Args:
        model: Network on the device of this process. Its training mode is restored afterwards.
        data: Data set with the split `config.val_split`.
        config: Training options.
        ranks: Rank, number of processes and device of this process.
        progress: Callback (done, total) that receives numbers of images of this process.

    Returns:
        The scores of the whole split, in every process.

    Raises:
        SegnetsError: If a sample can't be read or segmented in any process.
    """
    ranks.share_buffers(model)
    samples = data.samples(config.val_split)[ranks.rank :: ranks.world]
    training = model.training
    model.eval()
    try:
        with ranks.agreed():
            part = evaluate(
                model,
                data,
                config.val_split,
                device=ranks.device.type,
                samples=samples,
                examples=EXAMPLES,
                progress=progress,
            )
    finally:
        model.train(training)
    return Evaluation.merged(ranks.gather(part))


def scores_of(evaluation: Evaluation) -> dict[str, JSON]:
    """Return the scores to record in the log, the checkpoint and the weights files; None where undefined."""
    counts = evaluation.counts
    scores = {name: getattr(counts, name) for name in ("mean_iou", "pixel_accuracy", "mean_accuracy")}
    # Without valid pixels there are no scores.
    return {"split": evaluation.split, **{name: None if math.isnan(each) else each for name, each in scores.items()}}


def save_network(
    model: nn.Module, path: Path, config: TrainingConfig, data: DataSet, *, epochs: float, scores: Mapping[str, JSON]
) -> None:
    """Write a weights file with its provenance, which depends only on the run's configuration and results."""
    provenance: dict[str, JSON] = {
        "tool": f"segnets train {__version__}",
        "data": Path(config.data).name,
        "split": config.train_split,
        "recipe": config.recipe,
        "seed": config.seed,
        "epochs": epochs,
        "start": Path(config.weights or config.weights_backbone).name,
        "scores": dict(scores),
    }
    if data.licence:
        provenance["licence"] = data.licence
    save(model, path, provenance=provenance)
