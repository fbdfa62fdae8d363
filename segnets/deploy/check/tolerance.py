"""How far two networks' answers may lie apart, and how far they do.

Folding and other CPUs change the last bits of float32. How much that is depends on the network: from 1e-6 of the
largest logit in a ResNet to 4e-4 in a MobileNet with random weights. So the yardstick is the network itself: a copy in
float64 tells how much rounding costs the plain model, in float32 or in the half precision of the file, and a file may
differ by a few times that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnets.deploy._reason import reason_of
from segnets.errors import ExportError

# Measured over six seeds of randomised networks: folded and plain differ by at most 1.8 times the plain model's error.
ROUNDING_FACTORS = {"float32": 8.0, "bfloat16": 4.0, "float16": 4.0}
TOLERANCE_FLOOR = 1e-5
# A network whose answers are off by more than this by its own rounding alone can't be checked by numbers.
TOLERANCE_CEILINGS = {"float32": 1e-2, "bfloat16": 0.2, "float16": 0.1}
SHAPES = ((1, 64, 64), (1, 65, 97), (2, 33, 130))


@dataclass(frozen=True)
class Comparison:
    """One input through two networks.

    shape: (N, H, W). difference: largest of all logits' differences, relative to the largest logit.
    disagreements: pixels of another class; near_ties: those of them whose two best classes are within the tolerance.
    quantized: whether one is in int8; then `difference` is the root mean square, not the largest, and classes that
    differ are counted but allowed.
    """

    shape: tuple[int, int, int]
    difference: float
    tolerance: float
    disagreements: int
    near_ties: int
    quantized: bool = False

    @property
    def passed(self) -> bool:
        """Whether the logits agree, and every pixel's class except for near-ties."""
        return self.difference <= self.tolerance and (self.quantized or self.disagreements == self.near_ties)

    def __str__(self) -> str:
        pixels = self.shape[0] * self.shape[1] * self.shape[2]
        return (
            f"{'x'.join(map(str, self.shape))}: logits differ by {self.difference:.1e} of the largest "
            f"{'in root mean square ' if self.quantized else ''}(allowed {self.tolerance:.1e}), "
            f"classes of {self.disagreements} of {pixels} pixels differ"
            + (f", {self.near_ties} of them near-ties" if self.disagreements and not self.quantized else "")
            + ("" if self.passed else ": FAILED")
        )


class Yardstick:
    """Says how far another computation of a model's logits in `dtype` may lie from its float32 logits.

    model: in eval mode, float32, CPU. A copy of it in float64 tells what rounding costs the plain model.
    """

    def __init__(self, model: nn.Module, dtype: str) -> None:
        self.dtype = dtype
        self._float64 = copy.deepcopy(model).double()
        self._rounded = model if dtype == "float32" else copy.deepcopy(model).to(getattr(torch, dtype))

    def tolerance(self, image: Tensor) -> float:
        """Relative to the largest logit. Raises ExportError if the logits are not finite or the model is unstable."""
        rounded = logits_of(self._rounded, image.to(getattr(torch, self.dtype)))
        error = relative_difference(rounded, self.exact(image))
        ceiling = TOLERANCE_CEILINGS[self.dtype]
        if error > ceiling:
            raise ExportError(
                f"the model's {self.dtype} logits are {error:.1e} of the largest away from float64: it is numerically "
                "unstable, and no export of it can be checked"
            )
        return min(max(TOLERANCE_FLOOR, ROUNDING_FACTORS[self.dtype] * error), ceiling)

    def exact(self, image: Tensor) -> Tensor:
        """The logits, in float64. Raises ExportError if they are not finite."""
        # LibTorch computes a float64 depthwise convolution as one tiny parallel loop per channel. With several
        # threads on a busy machine these loops wait for each other, a hundred times longer than one thread takes.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return logits_of(self._float64, image.double())
        finally:
            torch.set_num_threads(threads)


def compare(
    candidate: Callable[[Tensor], Tensor], reference: nn.Module, dtype: str = "float32"
) -> tuple[Comparison, ...]:
    """Compare at several sizes and batch sizes.

    candidate: normalised float32 image -> logits, computed in `dtype`. reference: a model in eval mode, float32, CPU;
    gives {"out": logits}.
    Raises ExportError if the reference gives something other than finite numbers, or other shapes.
    """
    yardstick = Yardstick(reference, dtype)
    generator = torch.Generator().manual_seed(0)
    results = []
    for count, height, width in SHAPES:
        image = torch.randn(count, 3, height, width, generator=generator, dtype=torch.float32)
        expected = logits_of(reference, image)
        results.append(_compare_logits(candidate(image), expected, yardstick.tolerance(image)))
    return tuple(results)


def compare_quantized(
    candidate: Callable[[Tensor], Tensor], reference: nn.Module, image: Tensor, tolerance: float
) -> tuple[Comparison, ...]:
    """As `compare`, for a network in int8: on an image, smoothed and repeated to the same sizes and batches.

    image: (1, 3, h, w), normalised. tolerance: what int8 cost when the file was made, times what processors differ by.
    Noise won't do, and the largest difference neither: int8 cuts off what calibration on photographs never saw.
    """
    results = []
    image = F.avg_pool2d(image, 9, stride=1, padding=4, count_include_pad=False)
    for count, height, width in SHAPES:
        repeats = (count, 1, -(-height // image.shape[2]), -(-width // image.shape[3]))
        each = image.repeat(repeats)[:, :, :height, :width].contiguous()
        logits, expected = candidate(each), logits_of(reference, each)
        largest = _compare_logits(logits, expected, tolerance)
        square = float((logits.double() - expected.double()).square().mean().sqrt())
        difference = square / max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
        results.append(replace(largest, difference=difference, quantized=True))
    return tuple(results)


def logits_of(model: nn.Module, image: Tensor) -> Tensor:
    """The logits of a plain model. Raises ExportError if it doesn't run, or there are none, or not finite ones."""
    with torch.inference_mode():
        logits = logits_in(returned_by(model, image), model)
    if not bool(torch.isfinite(logits).all()):
        raise ExportError("the model's logits are not finite (NaN or infinity); its weights are damaged or diverged")
    return logits


def returned_by(model: nn.Module, image: Tensor) -> object:
    """What `model` gives for a float32 image. Raises ExportError if it doesn't run."""
    try:
        scores: object = model(image)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(
            f"the model doesn't run on a float32 {tuple(image.shape)} input: {reason_of(error)}"
        ) from error
    return scores


def logits_in(scores: object, model: nn.Module) -> Tensor:
    """The logits in what `model` returned. Raises ExportError if it is not a dictionary {"out": (N, C, H, W)}."""
    logits = scores.get("out") if isinstance(scores, Mapping) else None
    if isinstance(logits, Tensor) and logits.dim() == 4:
        return logits
    raise ExportError(
        f"this {type(model).__name__} gives a {type(scores).__name__} and not {{'out': (N, C, H, W) scores}}: "
        "export takes a segmentation model (backbone and classifier), and not a classifier of whole images or a "
        "backbone, which have no mask"
    )


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, relative to the largest expected value; infinity for NaN."""
    largest = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    difference = float((logits.double() - expected.double()).abs().max()) / largest
    return difference if difference == difference else float("inf")


def relative_margin(logits: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W): by how much the best class leads, relative to the largest logit."""
    if logits.shape[1] == 1:
        return torch.ones_like(logits[:, 0])
    best = logits.topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]) / max(float(logits.abs().max()), torch.finfo(torch.float32).tiny)


def _compare_logits(logits: Tensor, expected: Tensor, tolerance: float) -> Comparison:
    if logits.shape != expected.shape:
        raise ExportError(f"the file gives logits {tuple(logits.shape)}, the model {tuple(expected.shape)}")
    differs = logits.argmax(dim=1) != expected.argmax(dim=1)
    # Each of the two best may move by the tolerance.
    near_ties = differs & (relative_margin(expected) <= 2 * tolerance)
    return Comparison(
        shape=(expected.shape[0], expected.shape[2], expected.shape[3]),
        difference=relative_difference(logits, expected),
        tolerance=tolerance,
        disagreements=int(differs.sum()),
        near_ties=int(near_ties.sum()),
    )
