"""Segmentation metrics, computed from integer counts over a whole data set.

Means over images or batches would depend on how the images are grouped. Counts do not, and they add up exactly over
processes.

Shapes: N batch, C classes, H W image size.
"""

from __future__ import annotations

import abc
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

VOID = 255
Ids: TypeAlias = "Tensor | npt.NDArray[np.integer[Any]]"
Counts: TypeAlias = npt.NDArray[np.int64]


class Scored(abc.ABC):
    """Metrics derived from three counts per class.

    The IoU of a class in neither truth nor prediction is nan. The mean leaves it out.
    """

    counts: Counts

    @property
    @abc.abstractmethod
    def hits(self) -> Counts:
        """Number of correctly predicted pixels per class, (C,), int64."""

    @property
    @abc.abstractmethod
    def truth(self) -> Counts:
        """Number of pixels per class in the truth, (C,), int64."""

    @property
    @abc.abstractmethod
    def predicted(self) -> Counts:
        """Number of pixels per class in the prediction, (C,), int64."""

    @property
    @abc.abstractmethod
    def pixel_accuracy(self) -> float:
        """Share of correctly predicted pixels, 0..1; nan without pixels."""

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.counts)

    @property
    def pixels(self) -> int:
        """Number of counted pixels; in a multi-label mask each pixel of each plane counts."""
        return int(self.counts.sum())

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union per class, (C,), 0..1; nan for a class in neither truth nor prediction."""
        return _ratio(self.hits, self.truth + self.predicted - self.hits)

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes in truth or prediction, 0..1; nan without pixels."""
        return _mean(self.iou)

    @property
    def micro_iou(self) -> float:
        """IoU over the pooled pixels of all classes, 0..1; nan without pixels."""
        union = self.truth + self.predicted - self.hits
        return float(_ratio(self.hits.sum(keepdims=True), union.sum(keepdims=True))[0])

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Share of each class's pixels that are predicted correctly, (C,), 0..1; nan for a class without pixels."""
        return _ratio(self.hits, self.truth)

    @property
    def mean_accuracy(self) -> float:
        """Mean accuracy over the classes in the truth, 0..1; nan without pixels."""
        return _mean(self.accuracy)

    def __add__(self, other: Self) -> Self:
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"counts of {self.num_classes} and {other.num_classes} classes can't be added")
        result = type(self)(self.num_classes)  # type: ignore[call-arg]  # every subclass has this argument
        result.counts = self.counts + other.counts
        return result

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]  # mutable


class ConfusionMatrix(Scored):
    """Confusion matrix for masks of class ids.

    Args:
        num_classes: Number of classes.

    Attributes:
        counts: Number of pixels per true class (row) and predicted class (column), (C, C), int64.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, target: Ids, prediction: Ids, ignore: int | None = VOID) -> None:
        """Add the pixels of a pair of masks to the counts.

        Args:
            target: True ids, any shape and integer dtype.
            prediction: Predicted ids 0..C-1, same shape.
            ignore: Id in the truth whose pixels are not counted, or None.

        Raises:
            ValueError: If the shapes differ, or an id is not in 0..C-1.
        """
        if target.shape != prediction.shape:
            raise ValueError(
                f"masks of shape {tuple(target.shape)} and {tuple(prediction.shape)}: expected equal shapes"
            )
        truth, predicted = _flat(target), _flat(prediction)
        if ignore is not None:
            valid = truth != ignore
            truth, predicted = truth[valid], predicted[valid]
        if not len(truth):
            return
        for what, ids in (("target", truth), ("prediction", predicted)):
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.num_classes:
                wrong = high if high >= self.num_classes else low
                raise ValueError(
                    f"{what} with the id {wrong}: expected 0..{self.num_classes - 1}, or {ignore} to ignore"
                )
        pairs = truth.to(torch.int64) * self.num_classes + predicted
        found = torch.bincount(pairs, minlength=self.num_classes**2)
        self.counts += found.reshape(self.counts.shape).cpu().numpy()

    @property
    def hits(self) -> Counts:
        """Number of correctly predicted pixels per class, (C,), int64."""
        return self.counts.diagonal().copy()

    @property
    def truth(self) -> Counts:
        """Number of pixels per class in the truth, (C,), int64."""
        return np.asarray(self.counts.sum(axis=1))

    @property
    def predicted(self) -> Counts:
        """Number of pixels per class in the prediction, (C,), int64."""
        return np.asarray(self.counts.sum(axis=0))

    @property
    def pixel_accuracy(self) -> float:
        """Share of correctly predicted pixels, 0..1; nan without pixels."""
        return float(_ratio(self.hits.sum(keepdims=True), self.counts.sum(keepdims=True)[0])[0])


class PlaneCounts(Scored):
    """Pixel counts for multi-label masks, which have one plane of 0 and 1 per class.

    Args:
        num_classes: Number of planes.

    Attributes:
        counts: Number of pixels per plane, true value and predicted value, (C, 2, 2), int64.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((num_classes, 2, 2), dtype=np.int64)

    def update(self, target: Ids, prediction: Ids, ignore: int | None = VOID) -> None:
        """Add the pixels of a pair of masks to the counts.

        Args:
            target: True planes, (C, H, W) or (N, C, H, W), of 0, 1 and `ignore`; or ids (H, W) or (N, H, W), where
                each id selects a plane.
            prediction: Predicted planes, (C, H, W) or (N, C, H, W), of 0 and 1.
            ignore: Value in the truth whose pixels are not counted, or None.

        Raises:
            ValueError: If the shapes differ, or a value is not allowed.
        """
        predicted = torch.as_tensor(prediction)
        truth = torch.as_tensor(target, device=predicted.device)
        if predicted.ndim not in (3, 4) or predicted.shape[-3] != self.num_classes:
            raise ValueError(f"prediction of shape {tuple(predicted.shape)}: expected {self.num_classes} planes")
        if truth.ndim == predicted.ndim - 1:
            truth = planes_of(truth, self.num_classes, ignore)
        if truth.shape != predicted.shape:
            raise ValueError(f"masks of shape {tuple(truth.shape)} and {tuple(predicted.shape)}: expected equal shapes")
        for number in range(self.num_classes):
            plane = ConfusionMatrix(2)
            plane.update(truth.select(-3, number), predicted.select(-3, number), ignore)
            self.counts[number] += plane.counts

    @property
    def hits(self) -> Counts:
        """Number of correctly predicted pixels per class, (C,), int64."""
        return self.counts[:, 1, 1].copy()

    @property
    def truth(self) -> Counts:
        """Number of pixels per class in the truth, (C,), int64."""
        return np.asarray(self.counts[:, 1].sum(axis=1))

    @property
    def predicted(self) -> Counts:
        """Number of pixels per class in the prediction, (C,), int64."""
        return np.asarray(self.counts[:, :, 1].sum(axis=1))

    @property
    def pixel_accuracy(self) -> float:
        """Share of correctly predicted pixels over all planes, 0..1; nan without pixels."""
        right = self.counts[:, 0, 0] + self.counts[:, 1, 1]
        return float(_ratio(right.sum(keepdims=True), self.counts.sum(keepdims=True)[0, 0])[0])


def planes_of(ids: Tensor, num_classes: int, ignore: int | None = VOID) -> Tensor:
    """Convert a mask of ids to planes: 1 in the plane of the id, 0 in the others. Ignored pixels keep `ignore` in all.

    Args:
        ids: Ids (..., H, W), any integer dtype.
        num_classes: Number of planes C.
        ignore: Id that is copied to all planes, or None.

    Returns:
        Planes of shape (..., C, H, W), in the dtype of `ids`.
    """
    ids = ids.unsqueeze(-3)
    classes = torch.arange(num_classes, device=ids.device).reshape(-1, 1, 1)
    planes = (ids == classes).to(ids.dtype)
    return planes if ignore is None else torch.where(ids == ignore, ids, planes)


def _flat(ids: Ids) -> Tensor:
    tensor = torch.as_tensor(ids if isinstance(ids, Tensor) else np.ascontiguousarray(ids)).reshape(-1)
    return tensor.to(torch.int64) if tensor.dtype not in (torch.uint8, torch.int64) else tensor


def _ratio(part: Counts, whole: Counts) -> npt.NDArray[np.float64]:
    """Divide counts, with nan where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Return the mean of the values that are not nan, or nan if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
