"""Description of a head, which lets a builder put the head on any backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from segnets.backbones import Stage, Stages
from segnets.card import JSON
from segnets.layers import NormLayer


@dataclass(frozen=True)
class HeadInput:
    """Feature maps that a backbone offers to a head.

    Attributes:
        output_stride: Output stride of the backbone: 8, 16 or 32.
        channels: Channels of the last feature map.
        low_channels: Channels of the finer feature map if the head reads one, else 0.
        other_channels: Channels of the feature maps that `HeadSpec.others` selects, by name, in their order.
    """

    output_stride: int
    channels: int
    low_channels: int = 0
    other_channels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadSpec:
    """Description of one head. A builder calls `defaults` first, and `build` once all options are resolved.

    The module returned by `build` takes the last feature map (N, channels, H, W), or, if it has `reads_all_features =
    True`, a dictionary of feature maps. It returns logits (N, num_classes, H, W) at the size of a feature map. Its
    attribute `last_layers` is a tuple with the names of the convolutions that compute the logits. These are newly
    initialised when weights for a different number of classes are loaded.

    Attributes:
        name: First part of the model's name, for example "pspnet".
        title: Human-readable name and, after a comma, the link to the paper.
        variants: Values of the option `head_variant`: the projects whose version of the head can be built. The first
            one is the default.
        defaults: Function (variant, head_input) -> the options that apply to this head with their default values. None
            marks an option that is not in use by default. The options shared by all heads (`head_variant`,
            `head_norm_layer`, `head_norm_eps`, `align_corners`) are left out.
        build: Function (num_classes, head_input, options, norm_layer) -> the head. `options` are all resolved options
            of the builder, `norm_layer` is the factory of the head's norms. Initial weights are drawn in the order of
            module creation, so a published order must be kept.
        output_stride: Default output stride of the backbone.
        low: Function that selects the finer feature map, read as "low", from the backbone's stages, or None if the head
            only reads the last feature map.
        others: Function that selects any number of further feature maps by name from the backbone's stages, for example
            those of a feature pyramid, or None. A feature map can be read under one name only, and the auxiliary
            classifier reads one too, so such a head usually sets `auxiliary=False`.
        last_name: Key of the last feature map in the dictionary.
        auxiliary: Whether a network with this head can have an auxiliary classifier.
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
    others: Callable[[Stages], Mapping[str, Stage]] | None = None


def check_variant(variant: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless `variant` is one of `allowed`."""
    if variant not in allowed:
        raise ValueError(f"variant={variant!r}: expected {' or '.join(map(repr, allowed))}")
