"""What a head tells of itself before it is built, so that it can be put on any backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from segnets.backbones import Stage, Stages
from segnets.card import JSON
from segnets.layers import NormLayer, norm_layer

# Where dilation keeps more of the image, the same view needs wider rates: section 4 of the DeepLabV3 paper.
ATROUS_RATES = {8: [12, 24, 36], 16: [6, 12, 18], 32: [3, 6, 9]}


@dataclass(frozen=True)
class HeadInput:
    """Where a head is put: the backbone's output stride, and the channels of the feature maps that it reads.

    low_channels: of the finer feature map, for a head that reads one, else 0.
    """

    output_stride: int
    channels: int
    low_channels: int = 0


def check_variant(variant: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError for a variant that a head does not have."""
    if variant not in allowed:
        raise ValueError(f"variant={variant!r}: expected {' or '.join(map(repr, allowed))}")


def aspp_norm(options: Mapping[str, Any], head_norm: NormLayer) -> NormLayer:
    """What makes the norms inside ASPP: the head's own, or with these options the same kind with another eps."""
    eps = options.get("aspp_norm_eps")
    return head_norm if eps is None else norm_layer(options["head_norm_layer"], eps=eps)


@dataclass(frozen=True)
class HeadSpec:
    """One kind of head.

    name: "pspnet", the first part of a model's name; title: what it is, with the paper.
    variants: whose heads there are, the default first.
    defaults: (variant, head_input) -> the options that apply beside those that all heads have, with their defaults.
    build: (num_classes, head_input, options, norm_layer) -> the head.
    output_stride: the default. low: the finer feature map that it reads too, as "low", or None.
    last_name: what it calls the last feature map.
    auxiliary: whether a network with this head can have an auxiliary classifier.
    """

    name: str
    title: str
    variants: tuple[str, ...]
    defaults: Callable[[str, HeadInput], dict[str, JSON]]
    build: Callable[[int, HeadInput, Mapping[str, Any], NormLayer], nn.Module]
    output_stride: int = 8
    low: Callable[[Stages], Stage] | None = None
    last_name: str = "out"
    auxiliary: bool = True
