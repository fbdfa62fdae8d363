"""Compare training steps with torchvision's reference loop: `make bench-training`.

The command prints a table, and writes it to benchmarks/results/training.md with a description of the machine.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import machine
from benchmarks.turns import THREADS, ratio, turns

RESULTS = Path(__file__).parents[1] / "results" / "training.md"
NETWORKS = ("deeplabv3_resnet50", "lraspp_mobilenet_v3_large")
CLASSES, BATCH, SIDE = 21, 4, 321

_BATCH = """
import torch
from torch.nn import functional as F
from tests.oracle import torchvision
torch.manual_seed(0)
images = torch.randn({batch}, 3, {side}, {side})
target = torch.randint(0, {classes}, ({batch}, {side}, {side}))
target[:, :9] = 255
with_auxiliary = {auxiliary}
"""
# The steps of torchvision's references/segmentation/train.py.
_REFERENCE = (
    _BATCH
    + """
model = getattr(torchvision.models.segmentation, {name!r})(
    weights=None, weights_backbone=None, num_classes={classes}, aux_loss=with_auxiliary or None
).train()
groups = [
    {{"params": [p for p in model.backbone.parameters() if p.requires_grad]}},
    {{"params": [p for p in model.classifier.parameters() if p.requires_grad]}},
]
if with_auxiliary:
    groups.append({{"params": [p for p in model.aux_classifier.parameters() if p.requires_grad], "lr": 0.1}})
optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=100_000, power=0.9)
"""
)
_REFERENCE_STEP = """
output = model(images)
loss = F.cross_entropy(output["out"], target, ignore_index=255)
if with_auxiliary:
    loss = loss + 0.5 * F.cross_entropy(output["aux"], target, ignore_index=255)
optimizer.zero_grad()
loss.backward()
optimizer.step()
schedule.step()
loss.item()
"""
_OURS = (
    _BATCH
    + """
import segnets
from segnets.deploy import keep_freed_memory
from segnets.training import TrainingConfig
from segnets.training.losses import loss_of
from segnets.training.optim import build_optimizer
from segnets.training.schedules import schedule_of
from segnets.training.step import TrainingStep
config = TrainingConfig(
    model={name!r}, recipe="torchvision", lr=0.01, weight_decay=1e-4, channels_last=True, amp={amp!r}
)
keep_freed_memory()  # as `segnets train` does on CPUs
model = segnets.create_model({name!r}, num_classes={classes}, aux_loss=with_auxiliary).train()
step = TrainingStep(model, build_optimizer(model, config), loss_of(config), schedule_of(config, 1000), config)
"""
)
_OUR_STEP = "step([(images, target)]).loss.item()"


def steps(rounds: int) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| network | torchvision's loop | segnets, float32 | segnets, bfloat16 | float32 : loop | bfloat16 : loop |"
    yield "|---|---|---|---|---|---|"
    for name in NETWORKS:
        values = {"name": name, "classes": CLASSES, "batch": BATCH, "side": SIDE, "auxiliary": "lraspp" not in name}
        candidates = {"reference": (_REFERENCE.format(**values), _REFERENCE_STEP)}
        for amp in ("no", "bfloat16"):
            candidates[amp] = (_OURS.format(**values, amp=amp), _OUR_STEP)
        times = turns(candidates, rounds, calls=3)
        rates = " | ".join(f"{BATCH / statistics.median(times[each]):.2f}/s" for each in times)
        ratios = " | ".join(f"{ratio(times['reference'], times[amp]):.2f}" for amp in ("no", "bfloat16"))
        yield f"| {name} | {rates} | {ratios} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print the table without writing a file")
    options = parser.parse_args()
    lines = []
    for line in steps(options.rounds):
        print(line, flush=True)
        lines.append(line)
    if not options.dry:
        table = "\n".join(lines)
        supported = "has" if torch.cpu._is_avx512_bf16_supported() else "lacks"
        RESULTS.write_text(
            f"# Training steps compared with torchvision's reference loop\n\n{machine()}.\n{THREADS} threads, batches "
            f"of {BATCH} images of {SIDE}x{SIDE}, images per second. Candidates take turns, each in its own process;\n"
            f"ratios are medians over {options.rounds} rounds. segnets stores tensors channels last, and keeps the "
            f"memory\nthat it frees. This CPU {supported} bfloat16 instructions.\n"
            f"`make bench-training` repeats the measurement.\n\n{table}\n"
        )


if __name__ == "__main__":
    main()
