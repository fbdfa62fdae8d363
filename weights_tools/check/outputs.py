"""How far apart the results of two networks are: what is measured, and from where on they are not the same.

Shared by the comparison with another project's network and that with results that somebody kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segnets.card import JSON
from segnets.errors import WeightsError

# Of the largest result, or of 1 where that is less. Other kernels give other last bits, of which the layers of a deep
# network make more; in float64 nothing else is left, so that an option that matters little shows there.
TOLERANCES = {"float32": 1e-4, "float64": 1e-9}

NO_SCORES = "a backbone alone gives no scores to compare; prove the whole network"


@dataclass(frozen=True)
class Measured:
    """One result of two networks for one batch of images.

    output: its name; size: height and width of the images; dtype: in which both were computed.
    difference: the largest absolute one of any number; largest: the largest absolute result expected.
    agreement: share of the pixels (or of the images, for a classifier) for which both choose the same class.
    tolerance: times the largest result, or 1: what the difference may be.
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
        return self.tolerance * max(1.0, self.largest)

    @property
    def relative(self) -> float:
        """The difference as a share of the largest result; 0 if both are 0."""
        return self.difference / self.largest if self.largest else float(self.difference > 0)

    @property
    def holds(self) -> bool:
        """Whether they are the same. A result that is 0 everywhere says nothing, so it does not hold."""
        return self.largest > 0 and self.difference <= self.limit

    def to_json(self) -> dict[str, JSON]:
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
            f"{self.size[0]}x{self.size[1]} {self.dtype}: largest difference {self.difference:.2g} where the largest "
            f"result is {self.largest:.3g} ({self.relative:.1g} of it), the same class in {agreement} %"
        )


def random_images(size: tuple[int, int], channels: int) -> Tensor:
    """One image (1, channels, H, W), float64, of about mean 0 and deviation 1, the same at every call: a coarse
    pattern with a fine one on it, since noise alone leaves little after the first poolings.
    """
    generator = torch.Generator().manual_seed(size[0] * 100_003 + size[1])
    coarse = torch.randn(1, channels, size[0] // 16 + 2, size[1] // 16 + 2, generator=generator, dtype=torch.float64)
    fine = torch.randn(1, channels, *size, generator=generator, dtype=torch.float64)
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=False) + 0.5 * fine


def named(results: object) -> dict[str, Tensor]:
    """What a network of segnets gives, by name: a classifier gives one tensor, "logits".

    Raises WeightsError for results that are no tensors by name.
    """
    if isinstance(results, Tensor):
        return {"logits": results}
    if isinstance(results, Mapping) and all(isinstance(value, Tensor) for value in results.values()):
        return dict(results)
    raise WeightsError(f"the network gives a {type(results).__name__}, not scores that could be compared")


def measure(
    got: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    size: tuple[int, int],
    whose: str,
    tolerance: float | None = None,
) -> list[Measured]:
    """Compare every result by name. whose: whom the expected ones are of, for messages.

    Raises WeightsError if they are other results, of other shapes, or not finite: then there is nothing to measure.
    """
    if got.keys() != expected.keys():
        raise WeightsError(f"{whose} gives {_names(expected)}, and the converted network {_names(got)}")
    return [_measured(name, got[name], expected[name], size, whose, tolerance) for name in expected]


def _measured(
    name: str, got: Tensor, expected: Tensor, size: tuple[int, int], whose: str, tolerance: float | None
) -> Measured:
    if got.shape != expected.shape:
        raise WeightsError(
            f"{name!r} of {whose} has the shape {tuple(expected.shape)}, that of the converted network "
            f"{tuple(got.shape)}"
        )
    for who, tensor in ((whose, expected), ("the converted network", got)):
        if not tensor.isfinite().all():
            raise WeightsError(f"{name!r} of {who} holds NaN or infinite numbers, so that nothing can be compared")
    dtype = str(expected.dtype).removeprefix("torch.")
    return Measured(
        output=name,
        size=size,
        dtype=dtype,
        difference=_largest(got - expected),
        largest=_largest(expected),
        agreement=_agreement(got, expected),
        tolerance=TOLERANCES[dtype] if tolerance is None else tolerance,
    )


def worst(measured: Iterable[Measured]) -> Measured:
    """The one that is furthest beyond its limit, or nearest to it."""
    return max(measured, key=lambda each: (not each.holds, each.difference / each.limit))


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _agreement(got: Tensor, expected: Tensor) -> float:
    """Where there is one class only, whether it is there: a score above 0."""
    if expected.shape[1] == 1:
        same = (got > 0) == (expected > 0)
    else:
        same = got.argmax(1) == expected.argmax(1)
    return float(same.double().mean())


def _names(results: Mapping[str, Tensor]) -> str:
    return ", ".join(map(repr, results)) or "nothing"
