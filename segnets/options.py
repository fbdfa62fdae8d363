"""What can be chosen about a network: every option, the values that it takes, and what it needs.

A network has the options that mean something for it and no others: an option that would change nothing is refused
with the reason, so that nobody believes to have set it. Which options apply, and their defaults, is each backbone's
and head's own knowledge (`segnets.backbones`, `segnets.heads`); here is what is common to all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, TypedDict

from segnets.card import JSON
from segnets.layers import NORM_LAYERS

Norm: TypeAlias = Literal["batch", "sync", "frozen", "group"]


class Options(TypedDict, total=False):
    """The options of every builder. One that is left out, or None, takes the network's own default.

    num_classes: classes, the background included; 21 by default.
    aux_loss: with an auxiliary classifier, whose scores come out under "aux".
    gradient_checkpointing: in training, compute the backbone's activations twice instead of keeping them.
    norm_eval: in training, keep batch norms at their running statistics: True for all, "backbone" for the backbone's.

    Backbone:
    in_channels: channels of the image, 3 by default.
    output_stride: 8, 16 or 32: by how much the backbone shrinks the image. Below 32, dilation replaces stride.
    first_block_dilation: "previous": the first block of a dilated stage keeps the dilation of the stage before
    (torchvision's ResNet, timm); "same": it has that of its stage (torchvision's MobileNetV3, SMP, mmsegmentation
    without contract_dilation).
    basic_block_dilation: of a dilated BasicBlock (ResNet-18, -34), "both" convolutions dilate, the second one always
    with the stage's dilation (timm; with first_block_dilation="same", SMP), or the "first" one only (mmsegmentation).
    multi_grid: the dilation of each block of the fourth stage of a ResNet, as mmsegmentation takes them; the paper's
    unit rates (1, 2, 4) are (2, 4, 8) at output stride 16 and (4, 8, 16) at 8.
    stem: "plain", one 7x7 convolution, or "deep", three of 3x3 (ResNet-C, v1c).
    downsample: shortcuts shrink by a strided "conv", by "average" pooling (ResNet-D, v1d), or "average_dilated",
    which also pools 2x2 where dilation replaced the stride (timm's ResNet-D; "average" where nothing is dilated).
    stride_in_1x1: the stride sits in the first 1x1 convolution of a Bottleneck (Caffe) instead of the 3x3 one.
    backbone_stages: how many of a ResNet's stages are used: 4, or 3 or 2 (SMP's PSPNet).
    norm_layer: "batch", "sync" (synchronised over processes), "frozen" (fixed numbers) or "group".
    norm_eps: added to the variance in the backbone's norms: 1e-5, MobileNetV3 1e-3.

    Head:
    head_variant: whose head it is, where projects differ: "torchvision", "mmseg", "smp", "vainf".
    head_channels: its width. head_dropout: probability, 0 <= p < 1.
    atrous_rates: dilations of ASPP; by default (12, 24, 36) at output stride 8, (6, 12, 18) at 16, (3, 6, 9) at 32.
    aspp_separable: ASPP's dilated convolutions work on each channel by itself, then across channels.
    pool_norm: whether the branch that pools the whole image has a norm. Without, a batch of one can be trained.
    head_norm_layer, head_norm_eps: of the classifiers; by default as the backbone's, "batch" beside "frozen"; 1e-5.
    aspp_norm_eps: of the norms inside ASPP, where it is not head_norm_eps.
    align_corners: of every resizing; torchvision False, SMP True.
    """

    num_classes: int | None
    aux_loss: bool | None
    gradient_checkpointing: bool | None
    norm_eval: bool | Literal["backbone"] | None
    in_channels: int | None
    output_stride: Literal[8, 16, 32] | None
    first_block_dilation: Literal["previous", "same"] | None
    basic_block_dilation: Literal["both", "first"] | None
    multi_grid: Sequence[int] | None
    stem: Literal["plain", "deep"] | None
    downsample: Literal["conv", "average", "average_dilated"] | None
    stride_in_1x1: bool | None
    backbone_stages: Literal[2, 3, 4] | None
    norm_layer: Norm | None
    norm_eps: float | None
    head_variant: str | None
    head_channels: int | None
    head_dropout: float | None
    atrous_rates: Sequence[int] | None
    aspp_separable: bool | None
    pool_norm: bool | None
    head_norm_layer: Norm | None
    head_norm_eps: float | None
    aspp_norm_eps: float | None
    align_corners: bool | None


NAMES = tuple(Options.__annotations__)
# How a network is trained and not what it computes: not recorded.
TRAINING = ("gradient_checkpointing", "norm_eval")
# More classes, channels or dilation than any network has: a damaged file, or a slip.
_MOST = 1 << 20
_MOST_VALUES = 64  # in a list: each rate is a branch of the network, and a file may list a million

# What an option needs, said where it would change nothing.
_NEEDS = {
    "first_block_dilation": "a dilated stage whose dilations multi_grid does not set",
    "basic_block_dilation": "dilated BasicBlocks: resnet18 or resnet34 at output stride 8 or 16, or with multi_grid",
    "multi_grid": "all four stages of a ResNet",
    "stem": "a ResNet",
    "downsample": "a ResNet",
    "stride_in_1x1": "Bottleneck blocks, those of resnet50 and deeper",
    "backbone_stages": "a ResNet",
    "head_dropout": "a head with dropout, which lraspp has not",
    "atrous_rates": "ASPP: the heads deeplabv3 and deeplabv3plus",
    "aspp_separable": "ASPP: the heads deeplabv3 and deeplabv3plus",
    "aspp_norm_eps": "ASPP: the heads deeplabv3 and deeplabv3plus",
    "pool_norm": "a branch that pools the whole image: the heads deeplabv3, deeplabv3plus and pspnet",
}


def check_values(given: Mapping[str, Any]) -> None:
    """Raise ValueError for an option whose value is none of those that it can have, TypeError for an unknown one."""
    for name, value in given.items():
        if name not in _ALLOWED:
            raise TypeError(f"unknown option {name!r}; known are {', '.join(NAMES)}")
        fits, allowed = _ALLOWED[name]
        if not fits(value):
            raise ValueError(f"{name}={value!r}: expected {allowed}")


def check_applicable(model: str, given: Mapping[str, Any], applicable: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that would change nothing in this network as it was chosen."""
    for name in given:
        if name not in applicable and name not in TRAINING:
            needs = _NEEDS.get(name, "another head or backbone")
            raise ValueError(f"{name}={given[name]!r} would change nothing in this {model}: it needs {needs}")


def as_json(name: str, value: Any) -> JSON:
    """The value of an option that was checked, as a file keeps it: plain numbers, and sequences as lists."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Sequence):
        return [int(item) for item in value]
    return float(value) if name in _FRACTIONS else int(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and 1 <= int(value) <= _MOST


def _are_counts(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_list and 0 < len(value) <= _MOST_VALUES and all(map(_is_count, value))


def _is_fraction(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) < 1


_Check = tuple[Callable[[Any], bool], str]


def _one_of(*allowed: Any) -> _Check:
    def fits(value: Any) -> bool:
        if not isinstance(value, str | Integral):
            return False
        return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed)

    return fits, " or ".join(map(repr, allowed)) if len(allowed) < 3 else f"one of {', '.join(map(repr, allowed))}"


_BOOL: _Check = (_is_bool, "True or False")
_COUNT: _Check = (_is_count, f"a whole number of at least 1 ({_MOST:,} at most)")
_EPS: _Check = (lambda value: _is_fraction(value) and value != 0, "a number above 0 and below 1, such as 1e-5")
_FRACTIONS = ("norm_eps", "head_norm_eps", "aspp_norm_eps", "head_dropout")

_ALLOWED: dict[str, _Check] = {
    "num_classes": (_is_count, f"a whole number of at least 1, the background included ({_MOST:,} at most)"),
    "aux_loss": _BOOL,
    "gradient_checkpointing": _BOOL,
    "norm_eval": _one_of(False, True, "backbone"),
    "in_channels": _COUNT,
    "output_stride": _one_of(8, 16, 32),
    "first_block_dilation": _one_of("previous", "same"),
    "basic_block_dilation": _one_of("both", "first"),
    "multi_grid": (_are_counts, "a dilation for each block of the fourth stage, such as (4, 8, 16)"),
    "stem": _one_of("plain", "deep"),
    "downsample": _one_of("conv", "average", "average_dilated"),
    "stride_in_1x1": _BOOL,
    "backbone_stages": _one_of(2, 3, 4),
    "norm_layer": _one_of(*NORM_LAYERS),
    "norm_eps": _EPS,
    "head_variant": (lambda value: isinstance(value, str), "a text"),
    "head_channels": _COUNT,
    "head_dropout": (_is_fraction, "a probability, 0 <= p < 1"),
    "atrous_rates": (_are_counts, "whole numbers of at least 1, such as (12, 24, 36)"),
    "aspp_separable": _BOOL,
    "pool_norm": _BOOL,
    "head_norm_layer": _one_of(*NORM_LAYERS),
    "head_norm_eps": _EPS,
    "aspp_norm_eps": _EPS,
    "align_corners": _BOOL,
}
