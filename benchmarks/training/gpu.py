"""Measure training on a GPU in less than ten minutes: `python -m benchmarks.training.gpu [--data CAMVID]`.

Three sections, each reported when it is done, also if another one fails:

    steps    images per second of a network in bfloat16, compared with torchvision's own loop on the same card memory
    images per second of LR-ASPP, of a whole training from decoded images in memory resume   whether an interrupted
    training ends bit for bit like an uninterrupted one, in deterministic mode

`--small` runs all of it with tiny sizes, also on a CPU: a rehearsal, whose numbers mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import os
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import segnets
from segnets.training import TrainingConfig, train
from segnets.training.checkpoints import read_checkpoint
from segnets.training.losses import loss_of
from segnets.training.optim import build_optimizer
from segnets.training.schedules import schedule_of
from segnets.training.step import TrainingStep

RESULTS = Path(__file__).parents[1] / "results" / "training_gpu.md"
CLASSES = 21


@dataclass(frozen=True)
class Sizes:
    """Sizes of all sections."""

    network: str = "deeplabv3_resnet101"
    batch: int = 16
    side: int = 480
    calls: int = 10
    rounds: int = 3
    light: str = "lraspp_mobilenet_v3_large"
    light_batch: int = 32
    light_crop: int = 360
    images: int = 192
    epochs: int = 6
    workers: int = 8


SMALL = Sizes("fcn_mobilenet_v3_small", 2, 32, 1, 1, "lraspp_mobilenet_v3_small", 2, 32, 6, 2, 0)


def steps(sizes: Sizes, device: torch.device) -> Iterator[str]:
    """Yield the lines of a table: torchvision's loop as it is, with its option --amp, and ours."""
    torch.manual_seed(0)
    images = torch.randn(sizes.batch, 3, sizes.side, sizes.side, device=device)
    target = torch.randint(0, CLASSES, (sizes.batch, sizes.side, sizes.side), device=device)
    target[:, :9] = 255
    names = {"float32": "torchvision's loop", "amp": "its --amp (float16)", "ours": "segnets, bfloat16"}
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(sizes.rounds):
        for name in names:
            call = _ours(sizes, images, target) if name == "ours" else _reference(sizes, images, target, name == "amp")
            rates[name].append(_rate(call, sizes, device))
            del call
            if device.type == "cuda":
                torch.cuda.empty_cache()
    middle = {name: statistics.median(values) for name, values in rates.items()}
    yield f"| {sizes.network}, {sizes.side}x{sizes.side}, batch {sizes.batch} | images/s | of torchvision's loop |"
    yield "|---|---:|---:|"
    for name, text in names.items():
        yield f"| {text} | {middle[name]:.1f} | {middle[name] / middle['float32']:.2f} |"


def _reference(sizes: Sizes, images: Tensor, target: Tensor, amp: bool) -> Callable[[], object]:
    """Return a step of torchvision's references/segmentation/train.py."""
    model = _torchvision_network(sizes.network).to(images.device).train()
    optimizer = torch.optim.SGD(_groups(model), lr=0.02, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=100_000, power=0.9)
    scaler = torch.amp.GradScaler(images.device.type, enabled=amp and images.device.type == "cuda")

    def step() -> float:
        with torch.autocast(images.device.type, torch.float16, enabled=amp and images.device.type == "cuda"):
            output = model(images)
            loss = F.cross_entropy(output["out"], target, ignore_index=255)
            if "aux" in output:
                loss = loss + 0.5 * F.cross_entropy(output["aux"], target, ignore_index=255)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        return loss.item()

    return step


def _torchvision_network(name: str) -> nn.Module:
    importlib.import_module("segnets.torchvision_compat")  # for a torchvision next to a torch for CPUs
    segmentation = importlib.import_module("torchvision.models.segmentation")
    if hasattr(segmentation, name):
        network: nn.Module = getattr(segmentation, name)(
            weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss="lraspp" not in name or None
        )
        return network
    return segnets.create_model(name, num_classes=CLASSES, aux_loss=True)  # of the rehearsal; torchvision lacks it


def _groups(model: Any) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [
        {"params": [*model.backbone.parameters()]},
        {"params": [*model.classifier.parameters()]},
    ]
    if getattr(model, "aux_classifier", None) is not None:
        groups.append({"params": [*model.aux_classifier.parameters()], "lr": 0.2})
    return groups


def _ours(sizes: Sizes, images: Tensor, target: Tensor) -> Callable[[], object]:
    config = TrainingConfig(
        model=sizes.network, recipe="torchvision", aux_loss=True, channels_last=True, amp="bfloat16"
    )
    model = segnets.create_model(sizes.network, num_classes=CLASSES, aux_loss=True).to(images.device).train()
    step = TrainingStep(model, build_optimizer(model, config), loss_of(config), schedule_of(config, 1000), config)
    return lambda: step([(images, target)]).loss


def _rate(call: Callable[[], object], sizes: Sizes, device: torch.device) -> float:
    """Return the images per second of a step, after steps that prepare kernels."""
    for _ in range(min(3, sizes.calls)):
        call()
    _synchronise(device)
    started = time.perf_counter()
    for _ in range(sizes.calls):
        call()
    _synchronise(device)
    return sizes.batch * sizes.calls / (time.perf_counter() - started)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def from_memory(sizes: Sizes, device: torch.device, data: Path, folder: Path) -> Iterator[str]:
    """Yield the lines of a table of a training run whose images are kept decoded."""
    config = TrainingConfig(
        data=str(data),
        out=str(folder / "memory"),
        model=sizes.light,
        recipe="light",
        epochs=sizes.epochs,
        warmup_epochs=0,
        batch=sizes.light_batch,
        crop=sizes.light_crop,
        workers=sizes.workers,
        device=device.type,
        amp="bfloat16",
        val_split="",
        class_weights="none",
        log_every=1,
    )
    train(config, tell=_quiet)
    with (folder / "memory" / "log.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["images_per_second"]]
    late = rows[len(rows) // 3 :]  # after the start of the workers
    rate, waiting = (statistics.median(float(row[name]) for row in late) for name in ("images_per_second", "waiting"))
    yield f"| {sizes.light}, crops of {sizes.light_crop}, batch {sizes.light_batch} | images/s | waiting for data |"
    yield "|---|---:|---:|"
    yield f"| {sizes.workers} workers, bfloat16 | {rate:.0f} | {100 * waiting:.1f} % |"


def _quiet(_message: str) -> None: ...


class _Cut(BaseException):
    """The end of an interrupted training."""


def resume(sizes: Sizes, device: torch.device, data: Path, folder: Path) -> Iterator[str]:
    """Yield a line that says whether an interrupted training ends like an uninterrupted one."""

    def configured(name: str) -> TrainingConfig:
        return TrainingConfig(
            data=str(data),
            out=str(folder / name),
            model=sizes.light,
            recipe="light",
            loss="cross_entropy",
            epochs=2,
            warmup_epochs=0,
            batch=2,
            crop=sizes.light_crop,
            device=device.type,
            val_split="",
            checkpoint_every=2,
            log_every=1,
        )

    def cut(report: Any) -> None:
        if report.step == report.steps // 2 + 1:
            raise _Cut

    with _deterministic() as caught:
        train(configured("whole"), tell=_quiet)
        with contextlib.suppress(_Cut):
            train(configured("cut"), tell=_quiet, on_step=cut)
        train(configured("cut"), tell=_quiet, resume=True)
    one, other = (read_checkpoint(folder / name / "last.ckpt")["training"] for name in ("whole", "cut"))
    equal = one["steps"] == other["steps"] and _same(one, other)
    yield f"Interrupted in the middle of an epoch and resumed: {'equal bit for bit' if equal else 'DIFFERENT'}."
    yield from (f"Not deterministic: {message}" for message in caught)


@contextlib.contextmanager
def _deterministic() -> Iterator[list[str]]:
    """Use deterministic algorithms inside; collect what torch has none for."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield found
        finally:
            torch.use_deterministic_algorithms(before)
            found += sorted({str(each.message).split(". ")[0] for each in caught if "determin" in str(each.message)})


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def made_up(folder: Path, count: int, side: int) -> Path:
    """Write a data set of noise, for users without one."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        for kind, shape in (("images", (side, side * 4 // 3, 3)), ("masks", (side, side * 4 // 3))):
            (folder / "train" / kind).mkdir(parents=True, exist_ok=True)
            values = random.integers(0, 256 if kind == "images" else 3, shape, dtype=np.uint8)
            Image.fromarray(values).save(folder / "train" / kind / f"{number}.png", compress_level=1)
    (folder / "dataset.toml").write_text('classes = ["a", "b", "c"]\n')
    return folder


def report(sizes: Sizes, device: torch.device, data: Path | None) -> Iterator[str]:
    """Yield the lines of all sections. A failed one is a line, and its traceback goes to stderr."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = data or made_up(folder / "data", sizes.images, sizes.light_crop)
        sections = (steps(sizes, device), from_memory(sizes, device, data, folder), resume(sizes, device, data, folder))
        for section in sections:
            try:
                yield from section
            except Exception as error:  # the other sections are worth having
                traceback.print_exc()
                yield f"failed: {type(error).__name__}: {error}"
            yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of a data set, such as CamVid; default: made-up images")
    parser.add_argument("--small", action="store_true", help="rehearse with tiny sizes, also on a CPU")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.small:
        parser.error("no CUDA GPU here; --small rehearses on the CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lines = []
    for line in report(SMALL if options.small else Sizes(), device, options.data):
        print(line, flush=True)
        lines.append(line)
    if not options.small:
        card = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        RESULTS.write_text(
            f"# Training on a GPU\n\n{card}. `python -m benchmarks.training.gpu` repeats the measurement.\n\n"
            + "\n".join(lines)
        )


if __name__ == "__main__":
    main()
