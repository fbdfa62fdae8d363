"""Train LR-ASPP on MobileNetV3-Large, and distil it into LR-ASPP on MobileNetV3-Small.

    python examples/distil.py DATA OUT --backbone-large large.pth --backbone-small small.pth

The two runs together take about --minutes: the number of epochs follows from the time of a step, measured first.
The same command continues after an interruption. Without backbones, the networks start from random weights, and score
lower. --weights-large starts the teacher from a segmentation network instead. --small rehearses with tiny sizes on a
CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import segnets
from segnets.data import DataSet, open_data
from segnets.training import TrainingConfig, train
from segnets.training.distributed import joined
from segnets.training.dry_run import dry_run
from segnets.training.evaluation import evaluate

TEACHER, STUDENT = "lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_small"
_MOST_EPOCHS = 400


def trained(config: TrainingConfig, data: DataSet, seconds: float) -> Path:
    """Train for about this many seconds, or continue the training in the same folder; return the weights file."""
    out = Path(config.out)
    if (out / "config.toml").exists():
        config = TrainingConfig.from_toml(out / "config.toml", data=config.data, out=config.out)
    else:
        config = config.changed(epochs=epochs_within(config, data, seconds))
    print(f"{config.model}: {config.epochs} epochs in {out}")
    train(config, data, resume=True)
    return out / "last.safetensors"


def epochs_within(config: TrainingConfig, data: DataSet, seconds: float) -> int:
    """Return how many epochs fit into this many seconds, from the measured time of a step."""
    with joined(config.device) as ranks:
        trial = dry_run(config.changed(epochs=2), data, ranks, lambda _message: None)
    epoch = trial.step_seconds * trial.steps / 2
    return max(2, min(_MOST_EPOCHS, int(seconds / epoch)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone-large", default="")
    parser.add_argument("--weights-large", default="")
    parser.add_argument("--backbone-small", default="")
    parser.add_argument("--minutes", type=float, default=11)
    parser.add_argument("--split", default="val", help="split to score both on; default: val")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="rehearse with tiny sizes")
    options = parser.parse_args(arguments)

    data = open_data(options.data)
    common: dict[str, Any] = {
        "data": str(options.data),
        "recipe": "light",
        "workers": options.workers,
        "val_split": "",  # no checkpoint is selected by its score; both networks are the last ones
        "checkpoint_every": 200,
    }
    if options.small:
        common |= {"crop": 32, "batch": 2, "warmup_epochs": 0.0}
    half = 30 * options.minutes
    start = (
        {"weights": options.weights_large} if options.weights_large else {"weights_backbone": options.backbone_large}
    )
    teacher = trained(TrainingConfig(model=TEACHER, out=str(options.out / "teacher"), **start, **common), data, half)
    student = trained(
        TrainingConfig(
            model=STUDENT,
            out=str(options.out / "student"),
            weights_backbone=options.backbone_small,
            teacher=str(teacher),
            **common,
        ),
        data,
        half,
    )
    for path in (teacher, student):
        scores = evaluate(segnets.Predictor(str(path)), data, options.split)
        print(f"{path}: mean IoU {scores.mean_iou:.4f} on {options.split}")


if __name__ == "__main__":
    main()
