"""Segmentation losses. Each returns a numerator and a denominator, so that it can be averaged over processes.

Shapes: N batch, C channels of the logits, H W image size, P valid pixels. A target has ids 0..C-1, and 255 for
ignored pixels. With one sigmoid output the ids are 0 and 1. For a multi-label network the target has planes
(N, C, H, W) of 0, 1 and 255, or ids (N, H, W), where each id selects a plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from segnets.errors import TrainingError
from segnets.training.config import TrainingConfig, loss_terms
from segnets.training.metrics import VOID, planes_of

# Numerator and denominator of a mean over pixels or classes, each a scalar tensor.
Mean: TypeAlias = tuple[Tensor, Tensor]
MeanLoss: TypeAlias = Callable[[Tensor, Tensor], Mean]
PlainLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(
    logits: Tensor, target: Tensor, *, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Mean:
    """Compute the cross-entropy over the valid pixels.

    Args:
        logits: Logits (N, C, H, W), float.
        target: Class ids (N, H, W), any integer dtype, with 255 for ignored pixels.
        weight: Weight of each class, (C,).
        label_smoothing: Share of the target that is spread over all classes, 0..1.

    Returns:
        Weighted sum over the pixels and the sum of their weights, scalars.
    """
    target = target.long()
    total = _entropies(
        logits, target, weight=weight, ignore_index=VOID, reduction="sum", label_smoothing=label_smoothing
    )
    return total, _pixel_weights(target, weight).sum()


def ohem(
    logits: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 0.0625,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Mean:
    """Compute the cross-entropy over hard pixels (online hard example mining).

    Shrivastava et al. 2016, https://arxiv.org/abs/1604.03540

    Args:
        logits: Logits (N, C, H, W), float.
        target: Class ids (N, H, W), any integer dtype, with 255 for ignored pixels.
        threshold: A pixel is hard if the probability of its true class is below this value.
        min_kept: Minimum share of the valid pixels to keep, hardest first, 0..1.
        weight: Weight of each class, (C,).
        label_smoothing: Share of the target that is spread over all classes, 0..1.

    Returns:
        Weighted sum over the hard pixels and the sum of their weights, scalars.
    """
    target = target.long()
    losses = _entropies(
        logits, target, weight=weight, ignore_index=VOID, reduction="none", label_smoothing=label_smoothing
    )
    with torch.no_grad():
        hardness = _entropies(logits, target, ignore_index=VOID, reduction="none")
        hardness = torch.where(target == VOID, -1.0, hardness.float())
        kept = math.ceil(min_kept * int((target != VOID).sum()))
        cut = torch.tensor(-math.log(max(threshold, 1e-12)), device=logits.device)
        if kept:
            cut = torch.minimum(cut, torch.topk(hardness.reshape(-1), kept, sorted=True).values[-1])
        hard = (hardness >= cut) & (target != VOID)
        weights = _pixel_weights(target, weight) * hard
    return (losses * hard).sum(), weights.sum()


def dice(logits: Tensor, target: Tensor, *, total: Callable[[Tensor], Tensor] | None = None) -> Mean:
    """Compute the soft Dice loss, 1 - 2 |A n B| / (|A| + |B|), over the classes in the target.

    All pixels of the batch are pooled. Milletari et al. 2016, https://arxiv.org/abs/1606.04797 (there with
    squares in the denominator).

    Args:
        logits: Logits (N, C, H, W), float.
        target: Class ids (N, H, W), any integer dtype, with 255 for ignored pixels.
        total: Function that sums a tensor over all processes (`Ranks.total`), so that their batches count as one. None
            for a single process.

    Returns:
        Sum over the classes that occur in the target and the number of these classes, scalars.
    """
    valid = target != VOID
    sums = []
    for number, probability in enumerate(_probabilities(logits)):
        truth = target == number
        pixels = truth.sum()
        sums.append(torch.stack([(probability * truth).sum(), (probability * valid).sum() + pixels, pixels.float()]))
    common, sizes, counts = (torch.stack(sums) if total is None else total(torch.stack(sums))).unbind(dim=1)
    occurs = counts > 0
    return ((1 - 2 * common / sizes.clamp_min(1e-12)) * occurs).sum(), occurs.sum()


def lovasz(logits: Tensor, target: Tensor) -> Mean:
    """Compute the Lovasz-softmax loss, a convex surrogate of 1 - IoU, over the classes in the target.

    All pixels of the batch are pooled. Berman et al. 2018, https://arxiv.org/abs/1705.08790

    Args:
        logits: Logits (N, C, H, W), float.
        target: Class ids (N, H, W), any integer dtype, with 255 for ignored pixels.

    Returns:
        Sum over the classes that occur in the target and the number of these classes, scalars.
    """
    valid = target != VOID
    ids = target[valid]
    classes = torch.unique(ids).tolist()
    planes = _probabilities(logits)
    total = planes[0].sum() * 0
    for each in classes:
        truth = ids == each
        errors = (truth.float() - planes[each][valid]).abs()
        with torch.no_grad():
            order = torch.argsort(errors, descending=True)
            slope = torch.empty_like(errors).scatter_(0, order, _lovasz_gradient(truth[order].float()))
        total = total + torch.dot(errors, slope)
    return total, torch.tensor(len(classes), device=logits.device)


def _lovasz_gradient(truth: Tensor) -> Tensor:
    """Return the gradient of the Lovasz extension of 1 - IoU for sorted errors, (P,)."""
    union = truth.sum() + (1 - truth).cumsum(0)
    losses = 1 - (truth.sum() - truth.cumsum(0)) / union
    return torch.cat([losses[:1], losses.diff()])


def distillation(logits: Tensor, target: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Mean:
    """Compute the KL divergence from a teacher's probabilities over the valid pixels.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531

    Args:
        logits: Logits of shape (N, C, H, W).
        target: Class ids (N, H, W). Only its ignored pixels matter.
        teacher: Logits of the teacher, (N, C, H, W).
        temperature: Divisor of both networks' logits. The loss is multiplied by its square to keep the scale of the
            gradient.

    Returns:
        Sum over the pixels and their number, scalars.
    """
    valid = target != VOID
    ours = F.log_softmax(logits.float() / temperature, dim=1)
    wanted = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    divergence = F.kl_div(ours, wanted, reduction="none", log_target=True).sum(dim=1)
    return (divergence * valid).sum() * temperature**2, valid.sum()


def _entropies(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """Compute torch's cross-entropy for logits (N, C, H, W)."""
    if not _in_rows(logits):
        return F.cross_entropy(logits, target, **options)
    losses = F.cross_entropy(logits.movedim(1, -1).flatten(0, -2), target.flatten(), **options)
    return losses.reshape(target.shape) if losses.ndim else losses


def _in_rows(logits: Tensor) -> bool:
    """Return whether to use one row per pixel, the only layout with a deterministic version on GPUs."""
    return logits.is_cuda and torch.are_deterministic_algorithms_enabled()


def _pixel_weights(target: Tensor, weight: Tensor | None) -> Tensor:
    """Return the weight of each pixel, 0 for ignored ones, (N, H, W)."""
    valid = target != VOID
    if weight is None:
        return valid.float()
    return weight[torch.where(valid, target, 0)] * valid


def _probabilities(logits: Tensor) -> tuple[Tensor, ...]:
    """Return the probability of each class, C tensors of shape (N, H, W), float32."""
    return logits.float().softmax(dim=1).unbind(dim=1)  # one backward pass for all classes, unlike indexing


def plain(loss: PlainLoss) -> MeanLoss:
    """Wrap a loss so that it returns a numerator and a denominator, weighted by the number of valid pixels.

    Args:
        loss: Function of logits (N, C, H, W) and target (N, H, W) that returns a mean. It is not called for a batch in
            which every pixel is ignored.
    """

    def mean(logits: Tensor, target: Tensor) -> Mean:
        count = (target != VOID).sum()
        return (loss(logits, target) * count if count else logits.sum() * 0), count

    return mean


@dataclass(frozen=True)
class Objective:
    """Weighted sum of losses, over the classifier and the auxiliary classifier.

    Attributes:
        terms: Losses and their weights.
        decoding: Decoding rule of the network: "argmax", "threshold" or "multilabel".
        aux_weight: Weight of the auxiliary classifier's loss.
        distillation_weight: Weight of the distillation loss.
        temperature: Temperature of the distillation loss.
        plane_weights: Weight of each plane for "multilabel", C numbers; empty for equal weights.

    Example:
        >>> loss = Objective([(cross_entropy, 1.0), (dice, 0.5)])
        >>> loss(model(images), target).backward()
    """

    terms: Sequence[tuple[MeanLoss, float]]
    decoding: str = "argmax"
    aux_weight: float = 0.5
    distillation_weight: float = 1.0
    temperature: float = 1.0
    plane_weights: Sequence[float] = ()

    def __call__(
        self,
        outputs: Mapping[str, Tensor],
        target: Tensor,
        *,
        teacher: Tensor | None = None,
        share: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Compute the loss of a batch. It is 0 if every pixel is ignored.

        Args:
            outputs: Logits "out" and, if the network has an auxiliary classifier, "aux", each (N, C, H, W).
            target: Class ids (N, H, W), or planes (N, C, H, W), with 255 for ignored pixels.
            teacher: Logits of a teacher, (N, C, H, W).
            share: Function that averages the denominators, (T,), over all processes. The mean loss and gradient then
                equal those of one process with all batches. None for a single process.

        Returns:
            The loss, a scalar.
        """
        numerators, denominators, weights = self.parts(outputs, target, teacher=teacher)
        if share is not None:
            denominators = share(denominators)
        total: Tensor | None = None
        for numerator, denominator, weight in zip(numerators, denominators, weights, strict=True):
            mean = numerator / torch.where(denominator > 0, denominator, 1)
            term = mean if weight == 1 else weight * mean
            total = term if total is None else total + term
        assert total is not None  # there is at least one term
        return total

    def parts(
        self, outputs: Mapping[str, Tensor], target: Tensor, *, teacher: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor, list[float]]:
        """Compute the numerator, the denominator and the weight of every term.

        Args:
            outputs: Logits, as in `__call__`.
            target: Target, as in `__call__`.
            teacher: Logits of a teacher, (N, C, H, W).

        Returns:
            T scalar numerators; denominators (T,), float32, without gradient; T weights.
        """
        means, weights = [], []
        for name, factor in (("out", 1.0), ("aux", self.aux_weight)):
            if name not in outputs:
                continue
            for loss, weight in self.terms:
                for logits, ids, part in self._problems(outputs[name].float(), target):
                    means.append(loss(logits, ids))
                    weights.append(weight * factor * part)
        if teacher is not None:
            problems = zip(self._problems(outputs["out"], target), self._problems(teacher, target), strict=True)
            for (logits, ids, part), (wanted, _, _) in problems:
                means.append(distillation(logits, ids, wanted, temperature=self.temperature))
                weights.append(self.distillation_weight * part)
        numerators = [numerator for numerator, _ in means]
        return numerators, torch.stack([each.detach().float() for _, each in means]), weights

    def _problems(self, logits: Tensor, target: Tensor) -> Iterable[tuple[Tensor, Tensor, float]]:
        """Yield logits of at least two classes, ids and weight: one of each, or for "multilabel" one for each plane."""
        if self.decoding == "argmax":
            yield logits, target, 1.0
        elif self.decoding == "threshold":
            yield _two_classes(logits), target, 1.0
        else:
            planes = planes_of(target, logits.shape[1]) if target.ndim == 3 else target
            weights = self.plane_weights or [1.0] * logits.shape[1]
            for number, weight in enumerate(weights):
                yield _two_classes(logits[:, number : number + 1]), planes[:, number], weight / sum(weights)


def _two_classes(logits: Tensor) -> Tensor:
    """Return logits of two classes, (N, 2, H, W), whose softmax is the sigmoid of logits of shape (N, 1, H, W)."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def loss_of(
    config: TrainingConfig,
    class_weights: Tensor | None = None,
    *,
    custom: PlainLoss | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Objective:
    """Build the loss that a configuration describes.

    Args:
        config: Options of the section "Loss", and `decoding`.
        class_weights: Weight of each class, (C,), on the device of the logits (`class_weights_of`). cross_entropy and
            ohem apply it to the pixels of each class. For a multi-label network, every loss applies it to the planes.
        custom: Function of logits (N, C, H, W) and target (N, H, W) that returns a mean. Replaces `config.loss`.
        total: Function that sums a tensor over all processes, as in `dice`.

    Raises:
        TrainingError: If the configuration needs class weights and `class_weights` is None.
    """
    if class_weights is None and config.class_weights != "none" and custom is None:
        raise TrainingError(
            f"class_weights={config.class_weights!r}: pass the weights from class_weights_of(config.class_weights, "
            'class_frequencies(masks, classes), classes), or set class_weights="none"'
        )
    planes = config.decoding == "multilabel"
    options: dict[str, Any] = {"weight": None if planes else class_weights, "label_smoothing": config.label_smoothing}
    known: dict[str, MeanLoss] = {
        "cross_entropy": lambda logits, target: cross_entropy(logits, target, **options),
        "ohem": lambda logits, target: ohem(
            logits, target, threshold=config.ohem_threshold, min_kept=config.ohem_min_kept, **options
        ),
        "dice": lambda logits, target: dice(logits, target, total=total),
        "lovasz": lovasz,
    }
    terms = [(known[name], weight) for name, weight in loss_terms(config.loss)]
    return Objective(
        [(plain(custom), 1.0)] if custom is not None else terms,
        decoding=config.decoding,
        aux_weight=config.aux_weight,
        distillation_weight=config.distillation_weight,
        temperature=config.temperature,
        plane_weights=class_weights.tolist() if planes and class_weights is not None else (),
    )
