"""Losses, compared with their definitions in float64 and with PyTorch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segnets.errors import TrainingError
from segnets.training.class_weights import ClassFrequencies, class_frequencies, class_weights_of
from segnets.training.config import LOSSES, TrainingConfig
from segnets.training.losses import (
    Objective,
    cross_entropy,
    dice,
    distillation,
    loss_of,
    lovasz,
    ohem,
    plain,
)

CLASSES = 5
PLAIN: dict[str, Any] = {"class_weights": "none"}
CROSS_ENTROPY: dict[str, Any] = {**PLAIN, "loss": "cross_entropy"}
WEIGHT = torch.tensor([1.0, 0.5, 2.0, 3.0, 0.1])


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits, and a target with ignored pixels and without class 4."""
    torch.manual_seed(0)
    target = torch.randint(0, CLASSES - 1, (2, 7, 6), dtype=torch.uint8)
    target[torch.rand(target.shape) < 0.3] = 255
    return torch.randn(2, CLASSES, 7, 6), target


def value(mean: tuple[Tensor, Tensor]) -> float:
    return float((mean[0] / mean[1]).detach())


def valid_pixels(logits: Tensor, target: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Probabilities (P, C) in float64 and ids (P,) of the valid pixels."""
    probabilities = logits.detach().double().softmax(1).permute(0, 2, 3, 1)[target != 255]
    return probabilities.numpy(), target[target != 255].long().numpy()


def test_the_loss_of_torchvisions_recipe_bit_for_bit() -> None:
    objective = loss_of(TrainingConfig(model="fcn_resnet50", recipe="torchvision"))
    for seed in range(20):
        torch.manual_seed(seed)
        outputs = {name: torch.randn(2, 21, 23, 31, requires_grad=True) for name in ("out", "aux")}
        target = torch.randint(0, 21, (2, 23, 31))
        target[torch.rand(target.shape) < 0.2] = 255
        theirs = F.cross_entropy(outputs["out"], target, ignore_index=255)
        theirs = theirs + 0.5 * F.cross_entropy(outputs["aux"], target, ignore_index=255)
        ours = objective(outputs, target)
        assert torch.equal(ours, theirs)
        for mine, its in zip(*(torch.autograd.grad(loss, [*outputs.values()]) for loss in (ours, theirs)), strict=True):
            assert torch.equal(mine, its)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(batch: tuple[Tensor, Tensor], weight: Tensor | None, smoothing: float) -> None:
    logits, target = batch
    expected = F.cross_entropy(logits, target.long(), weight, ignore_index=255, label_smoothing=smoothing)
    found = cross_entropy(logits, target, weight=weight, label_smoothing=smoothing)
    assert value(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.2, 0.0), (0.01, 0.5), (0.5, 0.1), (1.0, 1.0), (0.0, 0.01)])
def test_ohem(batch: tuple[Tensor, Tensor], weight: Tensor | None, threshold: float, min_kept: float) -> None:
    logits, target = batch
    probabilities, ids = valid_pixels(logits, target)
    of_truth = probabilities[np.arange(len(ids)), ids]
    kept = max((of_truth < threshold).sum(), math.ceil(min_kept * len(ids)))
    hardest = np.argsort(of_truth)[:kept]
    weights = np.ones(len(ids)) if weight is None else weight.double().numpy()[ids]
    expected = -(weights * np.log(of_truth))[hardest].sum() / weights[hardest].sum()
    found = ohem(logits, target, threshold=threshold, min_kept=min_kept, weight=weight)
    assert value(found) == pytest.approx(expected, rel=1e-5)


def test_dice(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    probabilities, ids = valid_pixels(logits, target)
    terms = []
    for each in range(CLASSES - 1):  # the last does not occur
        truth = ids == each
        overlap = 2 * probabilities[truth, each].sum() / (probabilities[:, each].sum() + truth.sum())
        terms.append(1 - overlap)
    assert value(dice(logits, target)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_lovasz(batch: tuple[Tensor, Tensor]) -> None:
    """The Lovasz extension: the integral of 1 - IoU over the pixels whose error exceeds a level."""
    logits, target = batch
    probabilities, ids = valid_pixels(logits, target)
    terms = []
    for each in range(CLASSES - 1):
        truth = ids == each
        errors = np.abs(truth - probabilities[:, each])
        levels = np.sort(np.append(errors, 0.0))
        total = 0.0
        for low, high in itertools.pairwise(levels):
            wrong = errors > low
            total += (high - low) * (1 - (truth & ~wrong).sum() / (truth | wrong).sum())
        terms.append(total)
    assert value(lovasz(logits, target)) == pytest.approx(np.mean(terms), rel=1e-5)


def test_overlap_losses_of_a_perfect_prediction_are_0(batch: tuple[Tensor, Tensor]) -> None:
    _, target = batch
    logits = F.one_hot(torch.where(target == 255, 0, target).long(), CLASSES).permute(0, 3, 1, 2) * 100.0
    assert value(dice(logits, target)) == pytest.approx(0, abs=1e-6)
    assert value(lovasz(logits, target)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation(batch: tuple[Tensor, Tensor], temperature: float) -> None:
    logits, target = batch
    teacher = torch.randn(logits.shape)
    ours, _ = valid_pixels(logits / temperature, target)
    wanted, _ = valid_pixels(teacher / temperature, target)
    expected = (wanted * (np.log(wanted) - np.log(ours))).sum(1).mean() * temperature**2
    found = distillation(logits, target, teacher, temperature=temperature)
    assert value(found) == pytest.approx(expected, rel=1e-4)
    assert value(distillation(logits, target, logits)) == pytest.approx(0, abs=1e-6)


def test_a_sum_of_losses_with_aux_and_teacher(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    aux, teacher = torch.randn(logits.shape), torch.randn(logits.shape)
    config = TrainingConfig(
        loss="cross_entropy+0.5*dice", aux_weight=0.4, distillation_weight=0.7, class_weights="none"
    )
    expected = (
        value(cross_entropy(logits, target))
        + 0.5 * value(dice(logits, target))
        + 0.4 * (value(cross_entropy(aux, target)) + 0.5 * value(dice(aux, target)))
        + 0.7 * value(distillation(logits, target, teacher))
    )
    found = loss_of(config)({"out": logits, "aux": aux}, target, teacher=teacher)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_one_class_with_a_sigmoid(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch[0][:, :1], torch.where(batch[1] == 255, 255, batch[1] % 2)
    valid = target != 255
    config = TrainingConfig(decoding="threshold", **CROSS_ENTROPY)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][valid], target[valid].float())
    assert float(loss_of(config)({"out": logits}, target)) == pytest.approx(float(expected), rel=1e-6)
    pixel_weights = torch.where(target[valid] == 1, 3.0, 0.5)
    expected = F.binary_cross_entropy_with_logits(
        logits[:, 0][valid], target[valid].float(), pixel_weights, reduction="sum"
    )
    found = loss_of(config, torch.tensor([0.5, 3.0]))({"out": logits}, target)
    assert float(found) == pytest.approx(float(expected / pixel_weights.sum()), rel=1e-6)


@pytest.mark.parametrize("of_ids", [True, False])
def test_a_plane_per_class(batch: tuple[Tensor, Tensor], of_ids: bool) -> None:
    logits, ids = batch
    planes = torch.stack([torch.where(ids == 255, 255, (ids == each).to(ids.dtype)) for each in range(CLASSES)], dim=1)
    valid = planes != 255
    losses = F.binary_cross_entropy_with_logits(logits, planes.clamp(max=1).float(), reduction="none")
    means = (losses * valid).sum((0, 2, 3)) / valid.sum((0, 2, 3))
    config = TrainingConfig(decoding="multilabel", **CROSS_ENTROPY)
    target = ids if of_ids else planes
    assert float(loss_of(config)({"out": logits}, target)) == pytest.approx(float(means.mean()), rel=1e-5)
    expected = float((means * WEIGHT).sum() / WEIGHT.sum())
    assert float(loss_of(config, WEIGHT)({"out": logits}, target)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [*LOSSES, "cross_entropy+dice"])
@pytest.mark.parametrize(("decoding", "channels"), [("argmax", 3), ("threshold", 1), ("multilabel", 2)])
def test_a_batch_of_ignored_pixels_has_loss_0_and_no_gradient(loss: str, decoding: str, channels: int) -> None:
    logits = torch.randn(2, channels, 4, 4, requires_grad=True)
    target = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    config = TrainingConfig(loss=loss, decoding=decoding, label_smoothing=0.1, **PLAIN)
    found = loss_of(config)({"out": logits}, target, teacher=torch.randn(logits.shape))
    (gradient,) = torch.autograd.grad(found, logits)
    assert found == 0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_computed_in_float32(batch: tuple[Tensor, Tensor], loss: str, dtype: torch.dtype) -> None:
    logits, target = batch
    rounded = logits.to(dtype)
    objective = loss_of(TrainingConfig(loss=loss, **PLAIN))
    with torch.autocast("cpu", dtype):
        found = objective({"out": rounded}, target, teacher=rounded.flip(1))
    expected = objective({"out": rounded.float()}, target, teacher=rounded.float().flip(1))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert found.dtype == torch.float32


def test_any_callable_is_a_loss(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch

    def mine(logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target.long(), ignore_index=255)  # nan for ignored pixels only

    objective = loss_of(TrainingConfig(), custom=mine)
    assert float(objective({"out": logits}, target)) == pytest.approx(float(mine(logits, target)), rel=1e-6)
    assert objective({"out": logits}, torch.full_like(target, 255)) == 0
    assert float(Objective([(plain(mine), 2.0)])({"out": logits}, target)) == pytest.approx(
        2 * float(mine(logits, target))
    )


@pytest.mark.parametrize("loss", ["cross_entropy", "0.5*cross_entropy+ohem"])
def test_processes_average_over_all_pixels(batch: tuple[Tensor, Tensor], loss: str) -> None:
    """Two processes with shared denominators have the mean loss of one with both batches."""
    logits, target = batch
    target[0] = 255
    target[0, 0, 0] = 1  # one valid pixel in the first image, many in the second
    config = TrainingConfig(loss=loss, ohem_threshold=1.0, **PLAIN)
    objective = loss_of(config, WEIGHT)
    parts = [({"out": logits[i : i + 1]}, target[i : i + 1]) for i in range(2)]
    mean = torch.stack([objective.parts(*part)[1] for part in parts]).mean(0)
    losses = [objective(*part, share=lambda _own: mean) for part in parts]
    assert float(sum(losses)) / 2 == pytest.approx(float(objective({"out": logits}, target)), rel=1e-6)


def test_class_weights_that_are_missing() -> None:
    with pytest.raises(TrainingError, match="class_weights='enet': pass the weights from class_weights_of"):
        loss_of(TrainingConfig(class_weights="enet"))


MASKS = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 2, 255, 255]], np.uint8)]


def test_class_frequencies_and_weights() -> None:
    found = class_frequencies(MASKS, 4)
    assert found.pixels.tolist() == [4, 1, 1, 0]
    assert found.pixels_of_images.tolist() == [6, 4, 2, 0]
    enet = class_weights_of("enet", found, 4)
    assert enet is not None
    assert enet.tolist() == pytest.approx([1 / math.log(1.02 + share) for share in (4 / 6, 1 / 6, 1 / 6, 0)], rel=1e-6)
    median = class_weights_of("median", found, 4)
    assert median is not None
    assert median.tolist() == pytest.approx([0.5 / (4 / 6), 0.5 / (1 / 4), 0.5 / (1 / 2), 0])
    own = class_weights_of((1, 2, 3, 4), None, 4)
    assert own is not None
    assert own.tolist() == [1, 2, 3, 4]
    assert class_weights_of("none", None, 4) is None
    with pytest.raises(TrainingError, match="class_weights: 2 numbers for 4 classes"):
        class_weights_of((1, 2), None, 4)


def test_class_frequencies_of_planes() -> None:
    planes = np.array([[[1, 1, 0, 255]], [[1, 0, 0, 255]], [[0, 0, 255, 255]]], np.uint8)
    found = class_frequencies([planes, planes], 3)
    assert found.pixels.tolist() == [4, 2, 0]
    assert found.pixels_of_images.tolist() == [6, 6, 0]


def test_weights_of_published_frequencies() -> None:
    """ENet's weights for the shares of CamVid's training images."""
    shares = np.array([175, 242, 10, 330, 47, 101, 12, 12, 61, 7, 3])
    weights = class_weights_of("enet", ClassFrequencies(shares, shares), 11)
    assert weights is not None
    expected = [5.60, 4.30, 33.57, 3.34, 15.49, 8.74, 31.54, 32.01, 12.83, 38.01, 43.91]
    assert weights.tolist() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("loss", [cross_entropy, ohem])
def test_rows_of_pixels_give_the_same(loss: Any, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU in deterministic mode."""
    expected = value(loss(*batch, weight=WEIGHT, label_smoothing=0.1))
    shapes: list[int] = []
    original = F.cross_entropy

    def noted(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        shapes.append(logits.ndim)
        return original(logits, target, **options)

    monkeypatch.setattr(F, "cross_entropy", noted)
    monkeypatch.setattr("segnets.training.losses._in_rows", lambda _logits: True)
    assert value(loss(*batch, weight=WEIGHT, label_smoothing=0.1)) == pytest.approx(expected, rel=1e-6)
    assert {*shapes} == {2}
