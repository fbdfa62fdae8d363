"""Compare the outputs of two networks against a tolerance.

Shared by the comparison with a peer's network and the comparison with a golden file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segnets.card import JSON
from segnets.errors import WeightsError

# Relative to the largest output, or to 1 if that is less. Kernels round differently, and deep networks amplify
# rounding. In float64 there is almost no rounding, so even an option with a small effect is visible.
TOLERANCES = {"float32": 1e-4, "float64": 1e-9}

NO_LOGITS = "a backbone alone has no logits to compare. Check the whole network instead."


@dataclass(frozen=True)
class OutputComparison:
    """One output of two networks for the same batch of images.

    Attributes:
        output: Name of the output, for example "out" or "logits".
        size: Height and width of the images.
        dtype: Dtype that both networks computed in, for example "float32".
        difference: Largest absolute difference of any value.
        largest: Largest absolute value of the expected output.
        agreement: Fraction of pixels (of images, for a classifier) with the same argmax.
        tolerance: Allowed difference, relative to the largest expected value or to 1.
    """

    output: str
    size: tuple[int, int]
    dtype: str
    difference: float
    largest: float
    agreement: float
    tolerance: float

    @property
    def limit(self) -> float:
        """Largest absolute difference that is allowed."""
        return self.tolerance * max(1.0, self.largest)

    @property
    def relative(self) -> float:
        """Difference relative to the largest expected value; 0 if both are 0."""
        return self.difference / self.largest if self.largest else float(self.difference > 0)

    @property
    def holds(self) -> bool:
        """True if the outputs are the same. False for an output that is 0 everywhere, which proves nothing."""
        return self.largest > 0 and self.difference <= self.limit

    def to_json(self) -> dict[str, JSON]:
        """Return the record for reports and converted files."""
        return {
            "output": self.output,
            "size": list(self.size),
            "dtype": self.dtype,
            "largest_difference": self.difference,
            "largest_result": self.largest,
            "relative_difference": self.relative,
            "agreement": self.agreement,
            "limit": self.limit,
            "holds": self.holds,
        }

    def __str__(self) -> str:
        agreement = f"{100 * self.agreement:.4g}" if self.agreement in (0, 1) else f"{100 * self.agreement:.2f}"
        return (
            f"{self.size[0]}x{self.size[1]} {self.dtype}: largest difference {self.difference:.2g}, largest output "
            f"{self.largest:.3g} (relative {self.relative:.1g}), same class in {agreement} %"
        )


def random_images(size: tuple[int, int], channels: int) -> Tensor:
    """Return an image of shape (1, channels, H, W), float64, roughly mean 0 and deviation 1; the same for every call.

    The image combines a coarse pattern with noise, because noise alone averages out in the first pooling layers.
    """
    generator = torch.Generator().manual_seed(size[0] * 100_003 + size[1])
    coarse = torch.randn(1, channels, size[0] // 16 + 2, size[1] // 16 + 2, generator=generator, dtype=torch.float64)
    fine = torch.randn(1, channels, *size, generator=generator, dtype=torch.float64)
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=False) + 0.5 * fine


def outputs_by_name(outputs: object) -> dict[str, Tensor]:
    """Return a network's outputs by name; the single tensor of a classifier is called "logits".

    Raises:
        WeightsError: If the outputs are neither a tensor nor a mapping of tensors.
    """
    if isinstance(outputs, Tensor):
        return {"logits": outputs}
    if isinstance(outputs, Mapping) and all(isinstance(value, Tensor) for value in outputs.values()):
        return dict(outputs)
    raise WeightsError(f"the network returns a {type(outputs).__name__}; expected a tensor or a mapping of tensors")


def compare_outputs(
    got: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    size: tuple[int, int],
    source: str,
    tolerance: float | None = None,
) -> list[OutputComparison]:
    """Compare two networks' outputs by name against a tolerance.

    Args:
        got: Outputs of the converted network.
        expected: Outputs to compare with, by the same names.
        size: Height and width of the images, for the record.
        source: Origin of the expected outputs, for messages.
        tolerance: Allowed difference, relative to the largest expected value or to 1; by default `TOLERANCES`.

    Raises:
        WeightsError: If names or shapes differ, or a value is not finite. Differing outputs are not an error.
    """
    if got.keys() != expected.keys():
        raise WeightsError(f"{source} returns {_names(expected)}, but the converted network returns {_names(got)}")
    return [_compare(name, got[name], expected[name], size, source, tolerance) for name in expected]


def _compare(
    name: str, got: Tensor, expected: Tensor, size: tuple[int, int], source: str, tolerance: float | None
) -> OutputComparison:
    if got.shape != expected.shape:
        raise WeightsError(
            f"{name!r} of {source} has shape {tuple(expected.shape)}, but that of the converted network "
            f"{tuple(got.shape)}"
        )
    for of, tensor in ((source, expected), ("the converted network", got)):
        if not tensor.isfinite().all():
            raise WeightsError(f"{name!r} of {of} holds NaN or infinite values, which can't be compared")
    dtype = str(expected.dtype).removeprefix("torch.")
    return OutputComparison(
        output=name,
        size=size,
        dtype=dtype,
        difference=_largest(got - expected),
        largest=_largest(expected),
        agreement=_agreement(got, expected),
        tolerance=TOLERANCES[dtype] if tolerance is None else tolerance,
    )


def worst(compared: Iterable[OutputComparison]) -> OutputComparison:
    """Return the comparison with the largest difference relative to its limit."""
    return max(compared, key=lambda each: (not each.holds, each.difference / each.limit))


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _agreement(got: Tensor, expected: Tensor) -> float:
    """Return the fraction of equal argmaxes; for one class, of logits with equal sign."""
    if expected.shape[1] == 1:
        same = (got > 0) == (expected > 0)
    else:
        same = got.argmax(1) == expected.argmax(1)
    return float(same.double().mean())


def _names(outputs: Mapping[str, Tensor]) -> str:
    return ", ".join(map(repr, outputs)) or "nothing"
