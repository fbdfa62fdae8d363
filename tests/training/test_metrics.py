"""Scores, compared with counting pixel by pixel and with torchmetrics."""

from __future__ import annotations

import importlib
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from segnets.training.metrics import ConfusionMatrix, PlaneCounts, planes_of


def random_masks(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A true mask with ignored pixels and without class 4, and a prediction without 4 and 5."""
    random = np.random.default_rng(seed)
    truth = random.choice([0, 1, 2, 3, 5, 255], (13, 17), p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.1]).astype(np.uint8)
    prediction = np.where(random.random((13, 17)) < 0.6, truth, random.integers(0, 4, (13, 17))).astype(np.uint8)
    prediction[prediction >= 4] = 0
    return truth, prediction


def counted(pairs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]], classes: int) -> dict[str, Any]:
    """Scores from sets of pixels, in fractions."""

    def pixels(which: int, value: int) -> set[tuple[int, ...]]:
        return {(i, *place) for i, pair in enumerate(pairs) for place in np.argwhere(pair[which] == value).tolist()}

    valid = {(i, *place) for i, (mask, _) in enumerate(pairs) for place in np.argwhere(mask != 255).tolist()}
    truth = {each: pixels(0, each) for each in range(classes)}
    predicted = {each: pixels(1, each) & valid for each in range(classes)}
    iou = {c: Fraction(len(truth[c] & predicted[c]), len(u)) for c in truth if (u := truth[c] | predicted[c])}
    accuracy = [Fraction(len(truth[c] & predicted[c]), len(truth[c])) for c in truth if truth[c]]
    hits = sum(len(truth[c] & predicted[c]) for c in truth)
    return {
        "iou": [float(iou[c]) if c in iou else math.nan for c in truth],
        "mean_iou": float(sum(iou.values()) / len(iou)),
        "pixel_accuracy": hits / len(valid),
        "mean_accuracy": float(sum(accuracy) / len(accuracy)),
        "micro_iou": hits / sum(len(truth[c] | predicted[c]) for c in truth),
        "pixels": len(valid),
    }


def test_scores_equal_counting_pixel_by_pixel() -> None:
    pairs = [random_masks(seed) for seed in range(3)]
    matrix = ConfusionMatrix(6)
    for truth, prediction in pairs:
        matrix.update(truth, prediction)
    expected = counted(pairs, 6)
    np.testing.assert_array_equal(matrix.iou, expected.pop("iou"))
    for name, value in expected.items():
        assert getattr(matrix, name) == pytest.approx(value, rel=1e-15), name
    assert math.isnan(matrix.iou[4])
    assert matrix.iou[5] == 0  # in the truth only
    assert math.isnan(matrix.accuracy[4])


@pytest.mark.full  # importing torchmetrics takes five seconds
@pytest.mark.parametrize("average", ["macro", "micro", "none"])
def test_scores_equal_those_of_torchmetrics(average: str) -> None:

    importlib.import_module("segnets.torchvision_compat")  # first, because torchmetrics imports torchvision
    jaccard = importlib.import_module("torchmetrics.classification").MulticlassJaccardIndex
    metric = jaccard(6, average=average, ignore_index=255)
    matrix = ConfusionMatrix(6)
    for seed in range(5):
        truth, prediction = random_masks(seed)
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth.astype(np.int64)))
        matrix.update(truth, prediction)
    ours: Any = {"macro": matrix.mean_iou, "micro": matrix.micro_iou, "none": np.nan_to_num(matrix.iou)}[average]
    np.testing.assert_allclose(metric.compute().numpy(), ours, atol=1e-6)


def test_counts_do_not_depend_on_how_images_are_grouped() -> None:
    pairs = [random_masks(seed) for seed in range(4)]
    whole = ConfusionMatrix(6)
    whole.update(torch.from_numpy(np.stack([truth for truth, _ in pairs])), np.stack([mask for _, mask in pairs]))
    parts = []
    for truth, prediction in pairs:
        parts.append(ConfusionMatrix(6))
        parts[-1].update(truth, torch.from_numpy(prediction))
    assert parts[0] + parts[1] + parts[2] + parts[3] == whole
    assert parts[0] != whole
    assert whole.counts.dtype == np.int64


def test_nothing_counted_has_no_scores() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8))
    assert matrix.pixels == 0
    scores = (matrix.mean_iou, matrix.micro_iou, matrix.pixel_accuracy, matrix.mean_accuracy)
    assert all(map(math.isnan, scores))


def test_another_id_or_none_is_ignored() -> None:
    truth, prediction = np.array([[0, 1, 2]], np.uint8), np.array([[0, 0, 2]], np.uint8)
    matrix = ConfusionMatrix(3)
    matrix.update(truth, prediction, ignore=1)
    assert (matrix.pixels, matrix.mean_iou) == (2, 1.0)
    matrix.update(truth, prediction, ignore=None)
    assert matrix.pixels == 5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64])
def test_every_type_of_ids(dtype: type) -> None:
    truth, prediction = random_masks(0)
    matrix, other = ConfusionMatrix(6), ConfusionMatrix(6)
    matrix.update(truth, prediction)
    other.update(truth.astype(dtype), prediction.astype(dtype)[::1])
    assert matrix == other


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([[3]], [[0]], "target with the id 3: expected 0..2, or 255 to ignore"),
        ([[0]], [[255]], "prediction with the id 255"),
        ([[-1]], [[0]], "target with the id -1"),
        ([[0]], [[0, 0]], r"masks of shape \(1, 1\) and \(1, 2\): expected equal shapes"),
    ],
)
def test_bad_masks_are_refused(truth: list[list[int]], prediction: list[list[int]], message: str) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=message):
        matrix.update(np.array(truth, np.int16), np.array(prediction, np.int16))
    assert matrix.pixels == 0


def test_matrices_of_other_classes_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="counts of 2 and 3 classes"):
        ConfusionMatrix(2) + ConfusionMatrix(3)


def test_planes_are_counted_one_by_one() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (3, 9, 8)).astype(np.uint8)
    truth[1, :2] = 255
    prediction = random.integers(0, 2, (3, 9, 8)).astype(np.uint8)
    counts = PlaneCounts(3)
    counts.update(truth, prediction)
    ious, right = [], 0
    for plane, mask in zip(truth, prediction, strict=True):
        valid = plane != 255
        both, either = ((plane == 1) & (mask == 1))[valid].sum(), ((plane == 1) | (mask == 1))[valid].sum()
        ious.append(both / either)
        right += (plane == mask)[valid].sum()
    np.testing.assert_allclose(counts.iou, ious, rtol=1e-15)
    assert counts.pixel_accuracy == pytest.approx(right / (truth != 255).sum())
    assert counts.pixels == (truth != 255).sum()
    batch = PlaneCounts(3)
    batch.update(np.stack([truth, truth]), np.stack([prediction, prediction]))
    assert batch == counts + counts


def test_ids_become_planes() -> None:
    ids = torch.tensor([[0, 2, 255]], dtype=torch.uint8)
    planes = planes_of(ids, 3)
    assert planes.dtype == torch.uint8
    assert planes.tolist() == [[[1, 0, 255]], [[0, 0, 255]], [[0, 1, 255]]]
    counts = PlaneCounts(3)
    counts.update(ids, planes.clamp(max=1))
    assert counts.mean_iou == 1.0


@pytest.mark.parametrize(("truth", "prediction"), [((3, 4, 4), (2, 4, 4)), ((3, 4, 4), (4, 4)), ((2, 4, 4), (3, 4, 4))])
def test_bad_planes_are_refused(truth: tuple[int, ...], prediction: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        PlaneCounts(3).update(np.zeros(truth, np.uint8), np.zeros(prediction, np.uint8))
