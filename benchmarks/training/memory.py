"""Measure the memory of training runs, and the time that they wait for data: `python -m benchmarks.training.memory`.

Each measurement runs in its own process. The command prints two tables, and writes them to
benchmarks/results/training_memory.md with a description of the machine.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import machine, run_once

RESULTS = Path(__file__).parents[1] / "results" / "training_memory.md"
NETWORKS = ("deeplabv3_resnet50", "lraspp_mobilenet_v3_large")
CLASSES = 3

_PREPARE = """
import torch
import segnets
from segnets.training import TrainingConfig
from segnets.training.losses import loss_of
from segnets.training.optim import build_optimizer
from segnets.training.schedules import schedule_of
from segnets.training.step import TrainingStep
torch.manual_seed(0)
config = TrainingConfig(model={name!r}, recipe="torchvision", aux_loss=False)
model = segnets.create_model({name!r}, num_classes=21, gradient_checkpointing={checkpointing}).train()
step = TrainingStep(model, build_optimizer(model, config), loss_of(config), schedule_of(config, 1000), config)
images = torch.randn({batch}, 3, {side}, {side})
target = torch.randint(0, 21, ({batch}, {side}, {side}))
step([(torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long))])  # makes the buffers of the optimizer
"""
_WORK = "step([(images, target)]).loss.item()"


def peaks(*, batch: int, side: int, networks: tuple[str, ...] = NETWORKS) -> Iterator[str]:
    """Yield the lines of a table: the largest memory of a step beyond weights and batch."""
    yield "| network | peak of a step | with gradient checkpointing | ratio |"
    yield "|---|---:|---:|---:|"
    for name in networks:
        values = {"name": name, "batch": batch, "side": side}
        plain, saving = (
            run_once(_PREPARE.format(**values, checkpointing=checkpointing), _WORK) for checkpointing in (False, True)
        )
        first, second = plain["peak_mib"], saving["peak_mib"]
        yield f"| {name} | {first:.0f} MiB | {second:.0f} MiB | {second / first:.2f} |"


def train_long(folder: Path, model: str, epochs: int) -> dict[str, float]:
    """Train on a tiny set; return the resident memory in MiB after a tenth of the epochs and all, and the waiting.

    Args:
        folder: Empty folder.
        model: Name of the network.
        epochs: Number of epochs.
    """
    from segnets.training import TrainingConfig, train

    _write_set(folder / "data")
    samples: list[float] = []
    config = TrainingConfig(
        data=str(folder / "data"), out=str(folder / "run"), model=model, epochs=epochs, batch=4, crop=64, log_every=1
    )

    def note(report: Any) -> None:
        if report.step % (report.steps // report.epochs) == 0:
            samples.append(_resident())

    train(config, on_step=note, tell=lambda _message: None)
    with (folder / "run" / "log.csv").open(newline="") as file:
        waiting = [float(row["waiting"]) for row in csv.DictReader(file) if row["waiting"]]
    early = max(1, epochs // 10)
    return {
        "early": samples[early - 1],
        "last": samples[-1],
        "waiting": sum(waiting[1:]) / max(1, len(waiting) - 1),  # without the first step, which starts the loading
    }


def _write_set(folder: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(16):
        split = folder / ("train" if number < 12 else "val")
        for kind, pixels in (("images", (96, 128, 3)), ("masks", (96, 128))):
            (split / kind).mkdir(parents=True, exist_ok=True)
            values = random.integers(0, 256 if kind == "images" else CLASSES, pixels, dtype=np.uint8)
            Image.fromarray(values).save(split / kind / f"{number}.png")
    (folder / "dataset.toml").write_text('classes = ["a", "b", "c"]\n')


def _resident() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def flatness(epochs: int, model: str = "lraspp_mobilenet_v3_small") -> Iterator[str]:
    """Yield the lines of a table of a training run in its own process.

    Raises:
        RuntimeError: If it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.training.memory", "--inner", folder, model, str(epochs)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError("the training failed; see its error output above")
    found = json.loads(done.stdout.splitlines()[-1])
    yield f"| network | epochs | after {max(1, epochs // 10)} | at the end | growth | waiting for data |"
    yield "|---|---:|---:|---:|---:|---:|"
    growth = found["last"] - found["early"]
    yield (
        f"| {model}, validated each epoch | {epochs} | {found['early']:.0f} MiB | {found['last']:.0f} MiB | "
        f"{growth:+.1f} MiB | {100 * found['waiting']:.1f} % of a step |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=321)
    parser.add_argument("--dry", action="store_true", help="print the tables without writing a file")
    parser.add_argument("--inner", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        folder, model, epochs = options.inner
        print(json.dumps(train_long(Path(folder), model, int(epochs))))
        return
    lines = []
    for line in itertools.chain(peaks(batch=options.batch, side=options.side), [""], flatness(options.epochs)):
        print(line, flush=True)
        lines.append(line)
    if not options.dry:
        RESULTS.write_text(
            f"# Memory used by training\n\n{machine()}.\nPeak of a step: batches of {options.batch} images of "
            f"{options.side}x{options.side} in float32, in addition to weights, optimizer and batch.\n"
            "Memory over epochs: 12 images of 128x96 in "
            "batches of 4 crops of 64. `python -m benchmarks.training.memory` repeats the measurement.\n\n"
            + "\n".join(lines)
            + "\n"
        )


if __name__ == "__main__":
    main()
