"""Evaluation of a model on a split of a data set.

All metrics are computed from integer counts over all pixels of the split (`segnets.training.metrics`). Masks are
compared at the image's size or at the network's input size, as in torchvision's reference scripts.
"""

from __future__ import annotations

import heapq
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnets.card import JSON, Colour
from segnets.console import counted
from segnets.data import DataSet, Pair, Sample
from segnets.data.threads import Readers
from segnets.deploy import Exported
from segnets.errors import DataError
from segnets.inference import Predictor
from segnets.inference.networks import Network
from segnets.neutral_state import neutral_state
from segnets.palettes import default_palette
from segnets.segmenter import Decode, pixels_to_batch
from segnets.training.class_names import agree_on_classes
from segnets.training.metrics import VOID, ConfusionMatrix, PlaneCounts, Scored

Counts: TypeAlias = ConfusionMatrix | PlaneCounts
SIZES = ("image", "input")  # sizes at which masks can be compared
_AHEAD = 4  # samples to read in advance


@dataclass(frozen=True, eq=False)
class ImageScore:
    """Scores of one image.

    Attributes:
        name: Name of the sample.
        image: Path of the image.
        counts: Correct, true and predicted pixels of each class, (3, C), int64.
        pixels: Number of counted pixels.
        accuracy: Share of the counted pixels that are correct, 0..1; nan if all pixels are ignored.
        iou: IoU of each class, (C,), 0..1; nan for a class in neither truth nor prediction.
        mean_iou: Mean of the values that are not nan; nan if all pixels are ignored.
    """

    name: str
    image: str
    counts: npt.NDArray[np.int64]
    pixels: int
    accuracy: float
    iou: npt.NDArray[np.float64]
    mean_iou: float


@dataclass(frozen=True, eq=False)
class Example:
    """An image with its masks, for pictures.

    Attributes:
        score: Scores of the image.
        image: Pixels of shape (H, W, K), uint8.
        truth: Class ids (H, W), or planes (C, H, W), uint8, with 255 for ignored pixels.
        prediction: Class ids (H, W), or planes (C, H, W), any integer dtype.
    """

    score: ImageScore
    image: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    prediction: npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Result of evaluating a model on a split.

    Attributes:
        data: Path of the data set.
        split: Name of the split.
        classes: One name per class id.
        palette: One RGB colour per class id.
        ignored_ids: Values in the masks that were ignored.
        counts: Counts over all pixels.
        ignored_pixels: Number of ignored pixels; in a multi-label mask each pixel of each plane counts.
        images: Scores of each image, in the order of the split.
        at: Size at which masks were compared: "image" or "input".
        examples: Number of worst and of best images to keep.
        worst: Images with the lowest mean IoU, the lowest first.
        best: Images with the highest mean IoU, the highest first.
        model: Name of the model: that of its file, or of its class.
    """

    data: str
    split: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignored_ids: tuple[int, ...]
    counts: Counts
    ignored_pixels: int
    images: tuple[ImageScore, ...]
    at: str = "image"
    examples: int = 0
    worst: tuple[Example, ...] = field(default=(), repr=False)
    best: tuple[Example, ...] = field(default=(), repr=False)
    model: str = ""

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes in truth or prediction, 0..1."""
        return self.counts.mean_iou

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the classes in neither truth nor prediction, which the mean leaves out."""
        return tuple(name for name, iou in zip(self.classes, self.counts.iou, strict=True) if math.isnan(iou))

    def to_json(self) -> dict[str, JSON]:
        """Return the scores as JSON values; null for the IoU of an absent class."""
        iou: dict[str, JSON] = {
            name: _number(value) for name, value in zip(self.classes, self.counts.iou.tolist(), strict=True)
        }
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "at": self.at,
            "images": len(self.images),
            "mean_iou": _number(self.counts.mean_iou),
            "pixel_accuracy": _number(self.counts.pixel_accuracy),
            "mean_accuracy": _number(self.counts.mean_accuracy),
            "micro_iou": _number(self.counts.micro_iou),
            "iou": iou,
            "absent": list(self.absent),
            "pixels": self.counts.pixels,
            "ignored_pixels": self.ignored_pixels,
            "ignored_ids": list(self.ignored_ids),
        }

    def lines(self) -> list[str]:
        """Format the scores as lines of text."""
        counts = self.counts
        ignored = self.ignored_pixels / max(1, self.ignored_pixels + counts.pixels)
        images = counted(len(self.images), "image")
        ids = ", ".join(map(str, self.ignored_ids))
        lines = [
            f"{self.data}, split {self.split}: {images}, {counts.pixels:,} pixels; {100 * ignored:.2f} % ignored "
            f"(value{'' if len(self.ignored_ids) == 1 else 's'} {ids})",
            *(["compared at the size of the network's input"] if self.at == "input" else []),
            "",
            f"mean IoU        {_shown(counts.mean_iou)}  over {len(self.classes) - len(self.absent)} of "
            f"{len(self.classes)} classes",
            f"pixel accuracy  {_shown(counts.pixel_accuracy)}",
            f"mean accuracy   {_shown(counts.mean_accuracy)}",
            f"micro IoU       {_shown(counts.micro_iou)}",
            "",
        ]
        width = max(5, *map(len, self.classes))
        lines.append(f"{'class':{width}}     IoU  accuracy     share")
        shares = counts.truth / max(1, counts.truth.sum())
        for name, iou, accuracy, share in zip(self.classes, counts.iou, counts.accuracy, shares, strict=True):
            if math.isnan(iou):
                lines.append(f"{name:{width}}  absent from truth and prediction")
            else:
                lines.append(f"{name:{width}}  {_shown(iou)}    {_shown(accuracy)}  {100 * share:6.2f} %")
        return lines

    @classmethod
    def merged(cls, parts: Sequence[Evaluation]) -> Evaluation:
        """Merge evaluations of disjoint parts of a split, in any order.

        Args:
            parts: Evaluations of the same model, at least one.

        Raises:
            ValueError: If a sample occurs twice.
        """
        images = sorted((image for part in parts for image in part.images), key=lambda image: image.name)
        names = [image.name for image in images]
        if len({*names}) < len(names):
            raise ValueError("a sample occurs in several parts of an evaluation")
        first, counts = parts[0], parts[0].counts
        for part in parts[1:]:
            counts = _added(counts, part.counts)
        return cls(
            data=first.data,
            split=first.split,
            classes=first.classes,
            palette=first.palette,
            ignored_ids=first.ignored_ids,
            counts=counts,
            ignored_pixels=sum(part.ignored_pixels for part in parts),
            images=tuple(images),
            at=first.at,
            examples=first.examples,
            worst=tuple(sorted((each for part in parts for each in part.worst), key=_rank)[: first.examples]),
            best=tuple(sorted((each for part in parts for each in part.best), key=_rank_from_top)[: first.examples]),
            model=first.model,
        )


def evaluate(
    model: Predictor | nn.Module | Exported | str | os.PathLike[str],
    data: DataSet,
    split: str = "val",
    *,
    device: str = "auto",
    at: str = "image",
    samples: Sequence[Sample] | None = None,
    examples: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Segment the images of a split and compare the masks with the truth.

    The masks are bit-identical to those of `segnets.segment`, unless `model` is a Predictor with other settings.

    Args:
        model: Predictor, model in eval mode, loaded export, or path of a weights file or an exported file.
        data: Data set. If it has no class names, it takes the model's.
        split: Name of the split.
        device: "auto", "cpu", "cuda" or "mps". Ignored if `model` is a Predictor.
        at: Size at which masks are compared: "image", or "input" for the network's input size, to which the truth is
            resized (nearest pixel). torchvision's reference scripts report scores at the input size.
        samples: Samples to evaluate instead of the whole split, for example the part of one process
            (`Evaluation.merged`).
        examples: Number of worst and of best images to keep.
        progress: Callback (done, total) that receives numbers of images.

    Returns:
        Scores of the split and of each image.

    Raises:
        DataError: If the classes or channels of data and model differ, or a sample can't be read.
        ImageError: If an image can't be segmented.
        ValueError: If `at` is not allowed.

    Example:
        >>> evaluate("weights.safetensors", segnets.data.open_data("camvid")).mean_iou
    """
    if at not in SIZES:
        raise ValueError(f"at={at!r}: expected one of {', '.join(map(repr, SIZES))}")
    predictor = model if isinstance(model, Predictor) else Predictor(model, device, deterministic=True)
    network = predictor.networks[0]
    ids = len(predictor.classes)
    known = network.card.classes if len(network.card.classes) == ids else ()
    own_names = bool(data.classes)
    data = agree_on_classes(data, known, ids, network.name)
    if data.channels != predictor.channels:
        raise DataError(
            f"{data.path}: has images of {data.channels} channels, but {network.name} takes {predictor.channels}."
        )
    multilabel = network.decoding.rule == "multilabel"
    if data.planes and not multilabel:
        raise DataError(
            f"{data.path}: has masks with a plane per class, but {network.name} gives one class per pixel. Evaluate a "
            "network whose decoding is multilabel."
        )
    counts: Counts = PlaneCounts(ids) if multilabel else ConfusionMatrix(ids)
    todo = data.samples(split) if samples is None else samples
    without_mask = next((sample for sample in todo if sample.mask is None), None)
    if without_mask is not None:
        data.read_values(without_mask)  # raises now rather than after minutes of work
    remark = "" if own_names else f" The data set has no class names; these are {network.name}'s."
    images: list[ImageScore] = []
    worst, best = _Kept(examples, _rank), _Kept(examples, _rank_from_top)
    ignored = 0
    for sample, pair in _read_ahead(data, todo, remark):
        if at == "input":
            mask, pair = _at_input(network, pair)
        else:
            mask = predictor.predict(pair.image).checked_mask()
        of_image: Counts = PlaneCounts(ids) if multilabel else ConfusionMatrix(ids)
        of_image.update(pair.mask, mask)
        counts = _added(counts, of_image)
        ignored += mask.size - of_image.pixels
        score = _score_of(sample, of_image)
        images.append(score)
        example = Example(score, pair.image, pair.mask, mask)
        worst.offer(example)
        best.offer(example)
        if progress is not None:
            progress(len(images), len(todo))
    return Evaluation(
        data=str(data.path),
        split=split,
        classes=data.classes,
        palette=_palette(data, network.card.palette),
        ignored_ids=tuple(sorted({*data.ignore, VOID})),
        counts=counts,
        ignored_pixels=ignored,
        images=tuple(images),
        at=at,
        examples=examples,
        worst=worst.examples(),
        best=best.examples(),
        model=" + ".join(network.name for network in predictor.networks),
    )


def _at_input(network: Network, pair: Pair) -> tuple[npt.NDArray[np.integer[Any]], Pair]:
    """Return the predicted mask and the pair, both at the network's input size."""
    batch = network.prepare(pixels_to_batch(pair.image))
    height, width = batch.shape[2:]
    with neutral_state():
        mask: Tensor = Decode(network.decoding)(network.logits(batch).resized(), height, width)[0]

    def resized(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:  # (C, H, W)
        planes = torch.from_numpy(np.ascontiguousarray(values))
        return F.interpolate(planes[None], (height, width), mode="nearest-exact")[0].numpy()

    image = np.moveaxis(resized(np.moveaxis(pair.image, 2, 0)), 0, 2)
    truth = resized(pair.mask) if pair.mask.ndim == 3 else resized(pair.mask[None])[0]
    return mask.numpy(), Pair(image, truth)


def _read_ahead(data: DataSet, samples: Iterable[Sample], remark: str) -> Iterator[tuple[Sample, Pair]]:
    """Yield samples with their pairs, in order, and read ahead in threads. Append the remark to errors."""
    waiting: deque[tuple[Sample, Future[Pair]]] = deque()
    try:
        with Readers(2) as readers:
            for sample in samples:
                waiting.append((sample, readers.submit(data.read, sample)))
                if len(waiting) > _AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
    except DataError as error:
        raise DataError(f"{error}{remark}") from None


def _score_of(sample: Sample, counts: Scored) -> ImageScore:
    return ImageScore(
        name=sample.name,
        image=str(sample.image),
        counts=np.stack([counts.hits, counts.truth, counts.predicted]),
        pixels=counts.pixels,
        accuracy=counts.pixel_accuracy,
        iou=counts.iou,
        mean_iou=counts.mean_iou,
    )


def _palette(data: DataSet, of_model: Sequence[Colour]) -> tuple[Colour, ...]:
    if data.palette:
        return data.palette
    return tuple(of_model) if len(of_model) == len(data.classes) else default_palette(data.classes)


def _added(counts: Counts, others: Counts) -> Counts:
    if isinstance(counts, ConfusionMatrix) and isinstance(others, ConfusionMatrix):
        return counts + others
    assert isinstance(counts, PlaneCounts)
    assert isinstance(others, PlaneCounts)
    return counts + others


def _rank(example: Example) -> tuple[float, str]:
    return example.score.mean_iou, example.score.name


def _rank_from_top(example: Example) -> tuple[float, str]:
    return -example.score.mean_iou, example.score.name


class _Kept:
    """Bounded list of the examples with the lowest rank. Images without valid pixels are skipped."""

    def __init__(self, most: int, rank: Callable[[Example], tuple[float, str]]) -> None:
        self._most, self._rank = most, rank
        self._examples: list[Example] = []

    def offer(self, example: Example) -> None:
        if self._most and not math.isnan(example.score.mean_iou):
            self._examples = heapq.nsmallest(self._most, [*self._examples, example], key=self._rank)

    def examples(self) -> tuple[Example, ...]:
        return tuple(self._examples)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(value: float) -> str:
    return "     -" if math.isnan(value) else f"{value:.4f}"
