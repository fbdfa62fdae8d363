"""Are the numbers those of a trained network?

A network with one NaN gives NaN everywhere, and its mask is background everywhere, without any error. What no honest
file holds is refused; what is only strange is noted. The bounds are far outside of everything that was published:
batch norms with a variance of 0, pruned channels and single dead kernels are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weights_tools._text import join_names

# Squares of larger numbers overflow float32; a flipped bit in the exponent of an ordinary weight lands near 1e38.
HUGE = 1e15
# As many kernels without a single number mean that the file was not written to its end.
EMPTY_SHARE = 0.5


@dataclass(frozen=True)
class Soundness:
    """problems: reasons to refuse the weights. doubts: what the owner should know."""

    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def examine(tensors: Mapping[str, Tensor]) -> Soundness:
    """Look at every number of the floating-point tensors."""
    not_finite, negative, huge, empty = [], [], [], []
    kernels = 0
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        values = tensor.float() if tensor.element_size() == 1 else tensor
        low, high = (float(edge) for edge in torch.aminmax(values))
        is_kernel = tensor.ndim == 4
        kernels += is_kernel
        if not (abs(low) < float("inf") and abs(high) < float("inf")):  # NaN comes out of aminmax as NaN
            count = tensor.numel() - int(torch.isfinite(values).sum())
            not_finite.append(f"{name} ({count:,} of {tensor.numel():,})")
        elif max(-low, high) > HUGE:
            huge.append(f"{name} ({max(-low, high):.1e})")
        elif name.endswith("running_var") and low < 0:
            negative.append(f"{name} ({low:.1e})")
        elif is_kernel and low == high == 0:
            empty.append(name)
    problems = [
        f"{len(found)} {what}: {join_names(found)}"
        for found, what in (
            (not_finite, "tensors hold NaN or infinite values"),
            (negative, "tensors hold negative variances"),
            (huge, f"tensors hold values beyond {HUGE:.0e}"),
        )
        if found
    ]
    doubts: list[str] = []
    if empty:
        text = f"{len(empty)} of {kernels} convolution kernels hold only zeros: {join_names(empty)}"
        (problems if len(empty) > EMPTY_SHARE * kernels else doubts).append(text)
    return Soundness(tuple(problems), tuple(doubts))
