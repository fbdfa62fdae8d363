"""What a backbone tells of itself before it is built, so that any head can be put on any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

from torch import nn

from segnets.card import JSON, ModelConfig
from segnets.layers import NormLayer, norm_layer
from segnets.options import NAMES, as_json, check_values

FULL_CLASSES = 1000  # ImageNet's


@dataclass(frozen=True)
class Stage:
    """A feature map. path: the layer that gives it; stride: by how much it is smaller than the image, undilated."""

    path: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Stages:
    """The feature maps of a backbone, by depth. out: the last one; aux: what an auxiliary classifier reads."""

    all: tuple[Stage, ...]
    aux: Stage
    out: Stage

    def first_at(self, stride: int) -> Stage:
        """The first feature map that is smaller than the image by `stride`, dilation left aside."""
        return next(stage for stage in self.all if stage.stride == stride)

    def last_at(self, stride: int) -> Stage:
        """The last one. A ResNet has one of each size; of MobileNetV3, every block counts."""
        return next(stage for stage in reversed(self.all) if stage.stride == stride)


class BackboneSpec(Protocol):
    """One backbone network. Called, it is a classifier: (N, in_channels, H, W) -> (N, num_classes) logits.

    With num_classes=0, as timm says it, it has no last layers: it gives the pooled features, (N, channels of the last
    stage), and has the tensors of the features only.

    name: "resnet50"; title: "ResNet-50"; output_stride: the default below a segmentation head;
    norm_momentum: of its batch norms.
    features_prefix: what a classifier's state dict has before the names of the features.
    geometry: what no tensor of a classifier shows of its features, where it is not recorded.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def output_stride(self) -> int: ...

    @property
    def norm_momentum(self) -> float: ...

    @property
    def features_prefix(self) -> str: ...

    @property
    def geometry(self) -> Mapping[str, JSON]: ...

    def __call__(self, **options: Any) -> nn.Module: ...

    def defaults(self, given: Mapping[str, Any], output_stride: int) -> dict[str, JSON]:
        """The options that apply where `given` are chosen, with their defaults. Raises ValueError for contradictions.

        output_stride: what the head wants unless it is given.
        """
        ...

    def stages(self, options: Mapping[str, Any]) -> Stages:
        """The feature maps with these options."""
        ...

    def unused_prefixes(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """What the names of a classifier's tensors begin with that are not part of the features."""
        ...

    def build(self, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
        """The network whose children, run one after the other, give the feature maps."""
        ...


def check_classes(num_classes: Any) -> int:
    """The number of classes of a classifier. Raises ValueError for what is none."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 0:
        raise ValueError(
            f"num_classes={num_classes!r}: expected a whole number of classes, or 0 for a classifier without its last "
            "layers"
        )
    return int(num_classes)


def classifier_norm(options: dict[str, Any], *, eps: float, momentum: float) -> NormLayer | None:
    """Take norm_layer and norm_eps out of a classifier's options; norm_layer may be a name or a function.

    Returns None where the network's own is meant. Raises ValueError for values that they can't have.
    """
    kind, own_eps = options.pop("norm_layer", None), options.pop("norm_eps", None)
    if callable(kind):
        if own_eps is not None:
            raise ValueError(f"norm_eps={own_eps!r}: the function norm_layer decides on it; give one of them")
        function: NormLayer = kind
        return function
    if kind is None and own_eps is None:
        return None
    check_values({"norm_layer": kind or "batch", "norm_eps": eps if own_eps is None else own_eps})
    return norm_layer(kind or "batch", eps=eps if own_eps is None else float(own_eps), momentum=momentum)


def classifier_config(name: str, num_classes: int, options: Mapping[str, Any]) -> ModelConfig | None:
    """What builds a classifier again; None where a function makes its norms, which no file could hold."""
    if callable(options.get("norm_layer")):
        return None
    recorded = {key: _plain(key, value) for key, value in options.items() if value is not None}
    recorded.pop("zero_init_residual", None)  # of initial values only
    return ModelConfig(name, {"num_classes": num_classes, **recorded})


def _plain(name: str, value: Any) -> JSON:
    """torchvision's own options beside ours: lists of bools, numbers."""
    if name in NAMES:
        return as_json(name, value)
    result: JSON = [bool(item) for item in value] if isinstance(value, Sequence) else value
    return result
