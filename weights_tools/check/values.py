"""Check that tensors hold the values of a trained network.

A single NaN in the weights turns every logit into NaN and the mask into background, without any error. Values that no
trained network has are refused; unusual ones are reported. The bounds are far outside the range of published weights:
batch norms with a variance of 0, pruned channels and single dead kernels pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weights_tools._text import join_names

# The square of a larger value overflows float32. A flipped exponent bit turns an ordinary weight into about 1e38.
_MAX_VALUE = 1e15
# More all-zero kernels than this mean that the file was not completely written.
_MAX_EMPTY = 0.5


@dataclass(frozen=True)
class ValueCheck:
    """Findings about the values of tensors.

    Attributes:
        problems: Reasons to refuse the weights.
        doubts: Unusual values to report to the user.
    """

    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def check_values(tensors: Mapping[str, Tensor]) -> ValueCheck:
    """Check every value of the floating-point tensors for NaN, infinity, and values that training can't produce."""
    not_finite, negative, huge, empty = [], [], [], []
    kernels = 0
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        values = tensor.float() if tensor.element_size() == 1 else tensor
        low, high = (float(edge) for edge in torch.aminmax(values))
        is_kernel = tensor.ndim == 4
        kernels += is_kernel
        if not (abs(low) < float("inf") and abs(high) < float("inf")):  # aminmax propagates NaN
            count = tensor.numel() - int(torch.isfinite(values).sum())
            not_finite.append(f"{name} ({count:,} of {tensor.numel():,})")
        elif max(-low, high) > _MAX_VALUE:
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
            (huge, f"tensors hold values beyond {_MAX_VALUE:.0e}"),
        )
        if found
    ]
    doubts: list[str] = []
    if empty:
        text = f"{len(empty)} of {kernels} convolution kernels hold only zeros: {join_names(empty)}"
        (problems if len(empty) > _MAX_EMPTY * kernels else doubts).append(text)
    return ValueCheck(tuple(problems), tuple(doubts))
