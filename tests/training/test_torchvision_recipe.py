"""The steps of torchvision's reference script and ours give the same losses and weights, bit for bit.

The reference is written out after `references/segmentation/train.py` of torchvision 0.28.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets.torchvision_compat import torchvision
from segnets.training import TrainingConfig, TrainingStep, build_optimizer, loss_of, schedule_of
from tests.tiers import full_but

_CLASSES, _SIZE, _BATCH = 5, 33, 2

Batch = tuple[Tensor, Tensor]


def _batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    result = []
    for _ in range(count):
        images = torch.randn(_BATCH, 3, _SIZE, _SIZE, generator=generator)
        target = torch.randint(0, _CLASSES, (_BATCH, _SIZE, _SIZE), generator=generator)
        target[:, :7] = 255
        result.append((images, target))
    return result


def _criterion(inputs: dict[str, Tensor], target: Tensor) -> Tensor:
    losses = {name: nn.functional.cross_entropy(x, target, ignore_index=255) for name, x in inputs.items()}
    if len(losses) == 1:
        return losses["out"]
    return losses["out"] + 0.5 * losses["aux"]


def _reference(
    model: Any, batches: list[Batch], *, lr: float, weight_decay: float, aux: bool, warmup: int
) -> list[float]:
    """Train as torchvision's `train_one_epoch` and `main` do, for one epoch."""
    params: list[dict[str, Any]] = [
        {"params": [p for p in model.backbone.parameters() if p.requires_grad]},
        {"params": [p for p in model.classifier.parameters() if p.requires_grad]},
    ]
    if aux:
        params.append({"params": [p for p in model.aux_classifier.parameters() if p.requires_grad], "lr": lr * 10})
    optimizer = torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=weight_decay)
    scheduler: Any = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=len(batches) - warmup, power=0.9)
    if warmup:
        rise = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
        scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, scheduler], milestones=[warmup])
    model.train()
    losses = []
    for image, target in batches:
        output = model(image)
        loss = _criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def _compare(name: str, steps: int, *, aux: bool, warmup: int = 0) -> None:
    options: dict[str, Any] = {"num_classes": _CLASSES, "aux_loss": aux}
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.segmentation, name)(
        weights=None,
        weights_backbone=None,
        **{key: value for key, value in options.items() if key != "aux_loss" or aux},
    )
    torch.manual_seed(0)
    ours = segnets.create_model(name, **options).train()
    config = TrainingConfig(
        model=name, recipe="torchvision", epochs=1, batch=_BATCH, aux_loss=aux, warmup_epochs=warmup / steps
    )
    batches = _batches(steps)

    torch.manual_seed(1)  # of the dropout
    expected = _reference(theirs, batches, lr=config.lr, weight_decay=config.weight_decay, aux=aux, warmup=warmup)
    step = TrainingStep(ours, build_optimizer(ours, config), loss_of(config), schedule_of(config, steps), config)
    torch.manual_seed(1)
    losses = [step([batch]).loss.item() for batch in batches]

    assert losses == expected
    state = ours.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())


_NETWORKS = [
    ("lraspp_mobilenet_v3_large", False),
    ("deeplabv3_mobilenet_v3_large", True),
    ("fcn_resnet50", True),
    ("deeplabv3_resnet50", True),
]


@pytest.mark.parametrize(("name", "aux"), full_but([], _NETWORKS))
def test_fifty_steps(name: str, aux: bool) -> None:
    _compare(name, 50, aux=aux)


@pytest.mark.parametrize(
    ("name", "aux", "warmup"), [("deeplabv3_mobilenet_v3_large", True, 0), ("lraspp_mobilenet_v3_large", False, 2)]
)
def test_a_few_steps(name: str, aux: bool, warmup: int) -> None:
    _compare(name, 4, aux=aux, warmup=warmup)
