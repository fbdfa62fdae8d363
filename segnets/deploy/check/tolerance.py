"""Compare two networks' logits against a tolerance.

Folding batch norms, and another CPU, change the last bits of float32. The change depends on the network: from 1e-6 of
the largest logit in a ResNet to 4e-4 in a MobileNet with random weights. The tolerance is therefore estimated from the
network itself: a float64 copy shows the plain model's rounding error, in float32 or in the half precision of the file.
A file may differ from the plain model by a few times that error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnets.card import Decoding
from segnets.deploy.check.reference import logits_of
from segnets.errors import ExportError
from segnets.segmenter import Decode

# Measured over six seeds of randomised networks: folded and plain differ by at most 1.8 times the plain model's error.
ROUNDING_FACTORS = {"float32": 8.0, "bfloat16": 4.0, "float16": 4.0}
TOLERANCE_FLOOR = 1e-5
# A network whose own rounding error exceeds this can't be checked numerically.
TOLERANCE_CEILINGS = {"float32": 1e-2, "bfloat16": 0.2, "float16": 0.1}
SHAPES = ((1, 64, 64), (1, 65, 97), (2, 33, 130))


@dataclass(frozen=True)
class Comparison:
    """Comparison of two networks' logits for one input.

    Attributes:
        shape: Shape of the input and of the class mask, (N, H, W).
        difference: Largest absolute difference of the logits, relative to the largest logit. The root mean square
            instead if `quantized` is set.
        tolerance: Largest `difference` that passes.
        disagreements: Number of pixels whose class differs.
        near_ties: Number of those pixels whose two largest logits are within the tolerance of each other, or whose
            logit is within the tolerance of the threshold.
        quantized: Whether one of the networks is int8. Pixels whose class differs are then counted, but allowed.
    """

    shape: tuple[int, int, int]
    difference: float
    tolerance: float
    disagreements: int
    near_ties: int
    quantized: bool = False

    @property
    def passed(self) -> bool:
        """True if the logits agree, and the class of every pixel except near-ties."""
        return self.difference <= self.tolerance and (self.quantized or self.disagreements == self.near_ties)

    def __str__(self) -> str:
        pixels = self.shape[0] * self.shape[1] * self.shape[2]
        where = "x".join(map(str, self.shape))
        end = "" if self.passed else ": FAILED"
        if self.quantized:  # classes are meaningful on real images only; the contract records their agreement
            return (
                f"{where} of the golden image: logits differ from float32 by {self.difference:.1e} of the largest in "
                f"root mean square, as when exported (allowed {self.tolerance:.1e}){end}"
            )
        return (
            f"{where}: logits differ by {self.difference:.1e} of the largest (allowed {self.tolerance:.1e}), "
            f"classes of {self.disagreements} of {pixels} pixels differ"
            + (f", {self.near_ties} of them near-ties" if self.disagreements else "")
            + end
        )


class ToleranceEstimator:
    """Estimate of how far logits computed in `dtype` may differ from a model's float32 logits.

    Args:
        model: Model in eval mode, in float32 on the CPU.
        dtype: Name of the precision that the other network computes in.
    """

    def __init__(self, model: nn.Module, dtype: str) -> None:
        self.dtype = dtype
        self._float64 = copy.deepcopy(model).double()
        self._rounded = model if dtype == "float32" else copy.deepcopy(model).to(getattr(torch, dtype))

    def tolerance(self, image: Tensor) -> float:
        """Return the tolerance for one image, relative to the largest logit.

        Raises:
            ExportError: If the logits are not finite, or the model is numerically unstable.
        """
        rounded = logits_of(self._rounded, image.to(getattr(torch, self.dtype)))
        error = relative_difference(rounded, self.exact(image))
        ceiling = TOLERANCE_CEILINGS[self.dtype]
        if error > ceiling:
            raise ExportError(
                f"the model's {self.dtype} logits differ from float64 by {error:.1e} of the largest: the model is "
                "numerically unstable, and no export of it can be checked"
            )
        return min(max(TOLERANCE_FLOOR, ROUNDING_FACTORS[self.dtype] * error), ceiling)

    def exact(self, image: Tensor) -> Tensor:
        """Return the logits computed in float64.

        Raises:
            ExportError: If they are not finite.
        """
        # LibTorch computes a float64 depthwise convolution as one tiny parallel loop per channel. On a busy machine,
        # several threads spend a hundred times longer waiting for each other than one thread spends computing.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return logits_of(self._float64, image.double())
        finally:
            torch.set_num_threads(threads)


def compare(
    candidate: Callable[[Tensor], Tensor],
    reference: nn.Module,
    dtype: str = "float32",
    decoding: Decoding | None = None,
    in_channels: int = 3,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
) -> tuple[Comparison, ...]:
    """Compare two networks on noise, at several image and batch sizes.

    Args:
        candidate: Function from a normalised float32 image (N, in_channels, H, W) to logits (N, C, H, W).
        reference: Model in eval mode, in float32 on the CPU, that returns `{"out": logits}`.
        dtype: Name of the precision that `candidate` computes in.
        decoding: Rule that turns logits into ids; None means argmax.
        in_channels: Number of channels of the image.
        shapes: Shapes to compare at, (N, H, W).

    Returns:
        One comparison for each of `shapes`.

    Raises:
        ExportError: If the reference returns NaN, infinity or no logits, or the shapes of the logits differ.
    """
    estimator = ToleranceEstimator(reference, dtype)
    generator = torch.Generator().manual_seed(0)
    results = []
    for count, height, width in shapes:
        image = torch.randn(count, in_channels, height, width, generator=generator, dtype=torch.float32)
        expected = logits_of(reference, image)
        results.append(_compare_logits(candidate(image), expected, estimator.tolerance(image), decoding))
    return tuple(results)


def compare_quantized(
    candidate: Callable[[Tensor], Tensor],
    reference: nn.Module,
    image: Tensor,
    tolerance: float,
    decoding: Decoding | None = None,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
) -> tuple[Comparison, ...]:
    """Compare an int8 network with a float32 model on an image, at the sizes and batches of `compare`.

    Noise and the largest difference are unsuitable, because int8 clips values outside the range of calibration.

    Args:
        candidate: See `compare`.
        reference: See `compare`.
        image: Normalised image, (1, 3, h, w) float32. It is smoothed, and repeated to each size.
        tolerance: Largest root mean square difference that passes, relative to the largest logit.
        decoding: See `compare`.
        shapes: See `compare`.

    Returns:
        One comparison for each of `shapes`.

    Raises:
        ExportError: Under the same conditions as `compare`.
    """
    results = []
    image = F.avg_pool2d(image, 9, stride=1, padding=4, count_include_pad=False)
    for count, height, width in shapes:
        repeats = (count, 1, -(-height // image.shape[2]), -(-width // image.shape[3]))
        each = image.repeat(repeats)[:, :, :height, :width].contiguous()
        logits, expected = candidate(each), logits_of(reference, each)
        largest = _compare_logits(logits, expected, tolerance, decoding)
        square = float((logits.double() - expected.double()).square().mean().sqrt())
        difference = square / max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
        results.append(replace(largest, difference=difference, quantized=True))
    return tuple(results)


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, relative to the largest expected value; infinity for NaN."""
    largest = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    difference = float((logits.double() - expected.double()).abs().max()) / largest
    return difference if difference == difference else float("inf")


def ids_of(logits: Tensor, decoding: Decoding | None = None) -> Tensor:
    """Decode logits, (N, C, H, W), at their own size; None means argmax."""
    ids: Tensor = Decode(decoding or Decoding())(logits, logits.shape[2], logits.shape[3])
    return ids


def relative_margin(logits: Tensor, decoding: Decoding | None = None) -> Tensor:
    """Return twice the smallest error of the logits that can change an id, relative to the largest logit.

    For argmax, this is the difference of the two largest logits.

    Args:
        logits: Logits, (N, C, H, W).
        decoding: Rule that turns logits into ids; None means argmax.

    Returns:
        Margin of each pixel, (N, H, W); 1 for argmax of one class. Planes (N, C, H, W) for the rule "multilabel".
    """
    largest = max(float(logits.abs().max()), torch.finfo(torch.float32).tiny)
    if decoding is not None and decoding.rule != "argmax":
        margins = 2 * (logits - decoding.cut).abs() / largest
        return margins if decoding.rule == "multilabel" else margins[:, 0]
    if logits.shape[1] == 1:
        return torch.ones_like(logits[:, 0])
    best = logits.topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]) / largest


def count_differences(ids: Tensor, expected: Tensor, margin: Tensor, tolerance: float) -> tuple[int, int]:
    """Count the pixels whose ids differ.

    Args:
        ids: Ids, (N, H, W), or planes, (N, C, H, W).
        expected: Expected ids, of the same shape.
        margin: `relative_margin` of the expected logits.
        tolerance: Allowed difference of the logits, relative to the largest.

    Returns:
        Number of pixels that differ, and of those that differ in near-ties only.
    """
    differs = ids != expected
    # Each of the two largest logits may change by the tolerance.
    clear = differs & (margin > 2 * tolerance)
    if differs.dim() == 4:
        differs, clear = differs.any(dim=1), clear.any(dim=1)
    return int(differs.sum()), int((differs & ~clear).sum())


def _compare_logits(logits: Tensor, expected: Tensor, tolerance: float, decoding: Decoding | None) -> Comparison:
    if logits.shape != expected.shape:
        raise ExportError(f"the file returns logits {tuple(logits.shape)}, but the model {tuple(expected.shape)}")
    disagreements, near_ties = count_differences(
        ids_of(logits, decoding), ids_of(expected, decoding), relative_margin(expected, decoding), tolerance
    )
    return Comparison(
        shape=(expected.shape[0], expected.shape[2], expected.shape[3]),
        difference=relative_difference(logits, expected),
        tolerance=tolerance,
        disagreements=disagreements,
        near_ties=near_ties,
    )
