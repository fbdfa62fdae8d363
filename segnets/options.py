"""The table of options, with one row per option of a network.

`OPTIONS` has the options of segmentation networks, `CLASSIFIER_OPTIONS` those of a backbone's own classifier only.
Checks, error messages, warnings about hidden geometry and the table in docs/models.md are derived from these rows.
A network's backbone and head decide which options apply to it, and their defaults where these differ between networks
(`segnets.backbones`, `segnets.heads`). An option that would have no effect is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, TypedDict

from segnets.card import JSON
from segnets.layers import NORM_LAYERS

Norm: TypeAlias = Literal["batch", "sync", "frozen", "group"]


class Options(TypedDict, total=False):
    """Keyword arguments of every builder, for type checkers.

    An option that is left out, or None, takes the network's own default. `OPTIONS` describes each one; docs/models.md
    and the `help()` of a builder show the descriptions.
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


@dataclass(frozen=True, eq=False)  # rows are compared by identity; generating __eq__ would slow down the import
class Option:
    """One option of a network.

    Attributes:
        name: Keyword argument of the builders, and key in a weights file.
        type: Type of its values, as in `Options` without None.
        description: Meaning, as a phrase without a full stop, for the docs and `help()`.
        allowed: Wording of the allowed values, for errors and the docs.
        check: Function that returns whether a value is allowed.
        default: Default of every network that has the option; None if networks differ or the option is unused by
            default.
        default_note: Wording of the default for the docs, where `default` is None.
        needs: Part of a network without which the option would have no effect; empty if every network has it.
        visible: Whether the names and shapes of a network's tensors determine the value: "yes", "no", or "partly" if
            they rule out some values and leave others.
        changes_inference: Whether values that fit the same tensors give different outputs in eval mode.
        training_only: Whether the option only affects how a network is trained. Such options are not recorded.
        candidates: Values that published networks have, to try when outputs differ from a reference.
        search_rank: Position in such a search; likely mistakes come first.
        in_backbone_file: Whether a weights file of the backbone alone records the option, if it is not the default.
    """

    name: str
    type: object
    description: str
    allowed: str
    check: Callable[[Any], bool]
    default: JSON = None
    default_note: str = ""
    needs: str = ""
    visible: Literal["yes", "partly", "no"] = "yes"
    changes_inference: bool = True
    training_only: bool = False
    candidates: tuple[JSON, ...] = ()
    search_rank: int = 100
    in_backbone_file: bool = False

    @property
    def is_hidden(self) -> bool:
        """True if the same tensors can give different outputs under a different value of this option."""
        return self.visible != "yes" and self.changes_inference


# More classes, channels or dilation than any network has. Larger values come from a damaged file or a typo.
_MAX_COUNT = 1 << 20
_MAX_VALUES = 64  # per list: each rate is a branch of the network, and a hostile file may list a million


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and 1 <= int(value) <= _MAX_COUNT


def _are_counts(value: Any) -> bool:
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_list and 0 < len(value) <= _MAX_VALUES and all(map(_is_count, value))


def _is_fraction(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) < 1


def _is_eps(value: Any) -> bool:
    return _is_fraction(value) and value != 0


def _are_three_bools(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 3 and all(map(_is_bool, value))


def _choice(*allowed: Any) -> dict[str, Any]:
    """Return `allowed` and `check` for an option with a fixed set of values."""

    def check(value: Any) -> bool:
        if not isinstance(value, str | Integral):
            return False
        return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed)

    wording = " or ".join(map(repr, allowed)) if len(allowed) < 3 else f"one of {', '.join(map(repr, allowed))}"
    return {"allowed": wording, "check": check}


_BOOL: dict[str, Any] = {"type": bool, "allowed": "True or False", "check": _is_bool}
_COUNT: dict[str, Any] = {"type": int, "allowed": f"an integer from 1 to {_MAX_COUNT:,}", "check": _is_count}
_EPS: dict[str, Any] = {"type": float, "allowed": "a number above 0 and below 1, for example 1e-5", "check": _is_eps}
_PROBABILITY: dict[str, Any] = {"type": float, "allowed": "a probability, 0 <= p < 1", "check": _is_fraction}
_NORM: dict[str, Any] = {"type": Norm, **_choice(*NORM_LAYERS)}
_ASPP = "ASPP (heads deeplabv3 and deeplabv3plus)"

OPTIONS: tuple[Option, ...] = (
    Option(
        name="num_classes",
        type=int,
        description="Number of classes, including the background",
        allowed=f"an integer from 1 to {_MAX_COUNT:,}, counting the background",
        check=_is_count,
        default=21,  # PASCAL VOC's, as in torchvision
    ),
    Option(
        name="aux_loss",
        description='Add an auxiliary classifier, whose logits are returned under "aux"',
        **_BOOL,
        default=False,
        needs="a head other than lraspp",
    ),
    Option(
        name="gradient_checkpointing",
        description="In training, recompute the backbone's activations in the backward pass instead of storing them",
        **_BOOL,
        default=False,
        visible="no",
        changes_inference=False,
        training_only=True,
    ),
    Option(
        name="norm_eval",
        type=bool | Literal["backbone"],
        description="In training, keep batch norms in eval mode: all of them, or only those of the backbone",
        **_choice(False, True, "backbone"),
        default=False,
        visible="no",
        changes_inference=False,
        training_only=True,
    ),
    Option(
        name="in_channels",
        description="Number of channels of the image",
        **_COUNT,
        default=3,
        in_backbone_file=True,
    ),
    Option(
        name="output_stride",
        type=Literal[8, 16, 32],
        description="Ratio of the image's size to the size of the backbone's last feature map. Below 32, dilation "
        "replaces stride",
        **_choice(8, 16, 32),
        default_note="8 or 16, see the tables of networks below",
        visible="no",
        candidates=(8, 16, 32),
        search_rank=0,
    ),
    Option(
        name="first_block_dilation",
        type=Literal["previous", "same"],
        description='Dilation of the first block of a dilated stage: that of the "previous" stage (torchvision\'s '
        'ResNets, timm), or the "same" as the rest of its stage (torchvision\'s MobileNetV3, SMP, mmsegmentation '
        "without `contract_dilation`)",
        **_choice("previous", "same"),
        default_note="ResNets `'previous'`, MobileNetV3 `'same'`",
        needs="a dilated stage whose dilations multi_grid does not set",
        visible="no",
        candidates=("previous", "same"),
        search_rank=2,
    ),
    Option(
        name="basic_block_dilation",
        type=Literal["both", "first"],
        description='Convolutions that dilate in a dilated BasicBlock: "both" (timm, SMP), or only the "first" '
        "(mmsegmentation)",
        **_choice("both", "first"),
        default="both",
        needs="dilated BasicBlocks: resnet18 or resnet34 at output stride 8 or 16, or with multi_grid",
        visible="no",
        candidates=("both", "first"),
        search_rank=7,
    ),
    Option(
        name="multi_grid",
        type=Sequence[int],
        description="Dilation of each block of the fourth stage, as in mmsegmentation. The paper's unit rates "
        "(1, 2, 4) are (2, 4, 8) at output stride 16 and (4, 8, 16) at 8",
        allowed="one dilation for each block of the fourth stage, for example (4, 8, 16)",
        check=_are_counts,
        default_note="not used",
        needs="all four stages of a ResNet",
        visible="no",
        search_rank=8,
    ),
    Option(
        name="stem",
        type=Literal["plain", "deep"],
        description='First layers: "plain", one 7x7 convolution, or "deep", three 3x3 convolutions (ResNet-C, v1c)',
        **_choice("plain", "deep"),
        default="plain",
        needs="a ResNet",
        in_backbone_file=True,
    ),
    Option(
        name="downsample",
        type=Literal["conv", "average", "average_dilated"],
        description='Shortcuts of a strided block: a strided "conv", or "average" pooling (ResNet-D, v1d). '
        '"average_dilated" also pools 2x2 where dilation replaced the stride (timm)',
        **_choice("conv", "average", "average_dilated"),
        default="conv",
        needs="a ResNet",
        visible="partly",  # both kinds of pooling have the same tensors
        search_rank=9,
        in_backbone_file=True,
    ),
    Option(
        name="stride_in_1x1",
        description="Put a block's stride in its first 1x1 convolution (Caffe) instead of the 3x3 convolution",
        **_BOOL,
        default=False,
        needs="Bottleneck blocks (resnet50 and deeper)",
        visible="no",
        candidates=(False, True),
        search_rank=6,
        in_backbone_file=True,
    ),
    Option(
        name="backbone_stages",
        type=Literal[2, 3, 4],
        description="Number of backbone stages in use; fewer than 4 in SMP's PSPNet",
        **_choice(2, 3, 4),
        default=4,
        needs="a ResNet",
    ),
    Option(
        name="norm_layer",
        description='Norms of the backbone: "batch", "sync" (synchronised over processes), "frozen" (fixed statistics) '
        'or "group"',
        **_NORM,
        default="batch",
        visible="partly",  # only "group" shows; the others have the same tensors and outputs in eval mode
        changes_inference=False,
        in_backbone_file=True,
    ),
    Option(
        name="norm_eps",
        description="Number added to the variance in the backbone's norms",
        **_EPS,
        default_note="ResNets `1e-05`, MobileNetV3 `0.001`",
        visible="no",
        candidates=(1e-5, 1e-3),
        search_rank=4,
        in_backbone_file=True,
    ),
    Option(
        name="head_variant",
        type=str,
        description="Project whose version of the head is built",
        allowed="a string",
        check=_is_str,
        default_note="FCN and DeepLabV3 `'torchvision'` (or `'mmseg'`), DeepLabV3+ `'smp'` (or `'vainf'`), PSPNet "
        "`'mmseg'` (or `'smp'`), Lite R-ASPP `'torchvision'`",
    ),
    Option(
        name="head_channels",
        description="Width of the head",
        **_COUNT,
        default_note="FCN and PSPNet a quarter of the backbone's channels, ASPP 256, Lite R-ASPP 128",
    ),
    Option(
        name="head_dropout",
        description="Probability of the head's dropout",
        **_PROBABILITY,
        default_note="ASPP 0.5, FCN and PSPNet 0.1",
        needs="a head with dropout (all but lraspp)",
        visible="no",
        changes_inference=False,
    ),
    Option(
        name="atrous_rates",
        type=Sequence[int],
        description="Dilations of ASPP's branches",
        allowed="integers of at least 1, for example (12, 24, 36)",
        check=_are_counts,
        default_note="12, 24, 36 at output stride 8; 6, 12, 18 at 16; 3, 6, 9 at 32. "
        "`deeplabv3_mobilenet_v3_large` has those of 8 at 16, as in torchvision",
        needs=_ASPP,
        visible="no",  # except for their number
        candidates=([12, 24, 36], [6, 12, 18], [3, 6, 9]),
        search_rank=3,
    ),
    Option(
        name="aspp_separable",
        description="Make ASPP's dilated convolutions depthwise separable",
        **_BOOL,
        default_note="DeepLabV3 `False`, DeepLabV3+ `True`",
        needs=_ASPP,
    ),
    Option(
        name="pool_norm",
        description="Put a norm in the branch that pools the whole image. Without the norm, training works with a "
        "batch of one image",
        **_BOOL,
        default_note="`True`; PSPNet's `'smp'` `False`",
        needs="a branch that pools the whole image (heads deeplabv3, deeplabv3plus and pspnet)",
    ),
    Option(
        name="head_norm_layer",
        description="Norms of the classifiers",
        **_NORM,
        default_note="same as `norm_layer`, but `'batch'` for `'frozen'`",
        visible="partly",
        changes_inference=False,
    ),
    Option(
        name="head_norm_eps",
        description="Number added to the variance in the classifiers' norms",
        **_EPS,
        default=1e-5,
        visible="no",
        candidates=(1e-5, 1e-3),
        search_rank=5,
    ),
    Option(
        name="aspp_norm_eps",
        description="Number added to the variance in the norms inside ASPP, if different from `head_norm_eps`",
        **_EPS,
        default_note="same as `head_norm_eps`",
        needs=_ASPP,
        visible="no",
        candidates=(1e-5, 1e-3),
        search_rank=10,
    ),
    Option(
        name="align_corners",
        description="When resizing, align the centres of the corner pixels (SMP) instead of the image's corners "
        "(torchvision)",
        **_BOOL,
        default=False,
        visible="no",
        candidates=(False, True),
        search_rank=1,
    ),
)

# Recorded in the weights file of a classifier; a segmentation network has none of them.
CLASSIFIER_OPTIONS: tuple[Option, ...] = (
    Option(
        name="replace_stride_with_dilation",
        type=Sequence[bool],
        description="For stages 2, 3 and 4 of a ResNet, whether dilation replaces the stride",
        allowed="three booleans, for stages 2, 3 and 4",
        check=_are_three_bools,
        default_note="not used",
        needs="a ResNet",
        visible="no",
        search_rank=11,
    ),
    Option(
        name="dilated",
        description="Use dilation instead of stride in the last stage of a MobileNetV3",
        **_BOOL,
        default=False,
        needs="a MobileNetV3",
        visible="no",
        candidates=(False, True),
        search_rank=12,
    ),
    Option(
        name="dropout",
        description="Probability of dropout before the last layer of a MobileNetV3",
        **_PROBABILITY,
        default=0.2,
        needs="a MobileNetV3",
        visible="no",
        changes_inference=False,
    ),
)

ALL_OPTIONS = (*OPTIONS, *CLASSIFIER_OPTIONS)
NAMES = tuple(option.name for option in OPTIONS)
TRAINING = tuple(option.name for option in OPTIONS if option.training_only)
# Options whose default is the same for every network that has them.
DEFAULTS: Mapping[str, JSON] = {option.name: option.default for option in OPTIONS if option.default is not None}
# Options under which the same tensors can give different outputs.
HIDDEN = frozenset(option.name for option in ALL_OPTIONS if option.is_hidden)
_BY_NAME = {option.name: option for option in OPTIONS}


def check_values(given: Mapping[str, Any]) -> None:
    """Check the names and the values of options.

    Args:
        given: Options of a segmentation network, none of them None.

    Raises:
        TypeError: If an option name is unknown.
        ValueError: If an option has a value that is not allowed.
    """
    for name, value in given.items():
        option = _BY_NAME.get(name)
        if option is None:
            raise TypeError(f"unknown option {name!r}; known are {', '.join(NAMES)}")
        if not option.check(value):
            raise ValueError(f"{name}={value!r}: expected {option.allowed}")


def check_applicable(model: str, given: Mapping[str, Any], applicable: Mapping[str, Any]) -> None:
    """Check that every given option has an effect.

    Args:
        model: Name of the network, for the message.
        given: Chosen options, already checked by `check_values`.
        applicable: Options that the network has with these choices.

    Raises:
        ValueError: If an option would have no effect in this network.
    """
    for name in given:
        if name not in applicable and name not in TRAINING:
            needs = _BY_NAME[name].needs or "another head or backbone"
            raise ValueError(f"{name}={given[name]!r} would have no effect in this {model}: the option needs {needs}")


def as_json(name: str, value: Any) -> JSON:
    """Convert the checked value of an option to JSON for a file: plain numbers, and lists for sequences."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Sequence):
        return [int(item) for item in value]
    return float(value) if _BY_NAME[name].type is float else int(value)
