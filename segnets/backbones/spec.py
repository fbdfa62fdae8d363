"""Description of a backbone, which lets a builder put any head on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

from torch import nn

from segnets.card import JSON, ModelConfig
from segnets.layers import NormLayer, norm_layer
from segnets.options import NAMES, as_json, check_values

FULL_CLASSES = 1000  # in ImageNet


@dataclass(frozen=True)
class Stage:
    """Feature map of a backbone.

    Attributes:
        path: Path of the layer that outputs it.
        channels: Number of channels.
        stride: Ratio of the image size to the feature map's size, without dilation.
    """

    path: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Stages:
    """Feature maps of a backbone.

    Attributes:
        all: All feature maps, in the order of computation.
        aux: Feature map for an auxiliary classifier.
        out: Last feature map.
    """

    all: tuple[Stage, ...]
    aux: Stage
    out: Stage

    def first_at(self, stride: int) -> Stage:
        """Return the first feature map with this stride."""
        return next(stage for stage in self.all if stage.stride == stride)

    def last_at(self, stride: int) -> Stage:
        """Return the last feature map with this stride. A ResNet has one per stride, a MobileNetV3 several."""
        return next(stage for stage in reversed(self.all) if stage.stride == stride)


class BackboneSpec(Protocol):
    """Description of one backbone.

    Calling it builds the classifier that is pretrained on ImageNet: (N, in_channels, H, W) -> logits (N, num_classes).
    With `num_classes=0` the classifier lacks its last layers: it only has the feature extractor's tensors, and returns
    the pooled features (N, channels of the last stage).

    A builder calls `defaults` first, `stages` with the resolved options, and `build` last.
    """

    @property
    def name(self) -> str:
        """Name of the backbone, the last part of a model's name, for example "resnet50"."""
        ...

    @property
    def title(self) -> str:
        """Human-readable name, for example "ResNet-50"."""
        ...

    @property
    def output_stride(self) -> int:
        """Default output stride in a segmentation network, unless the head needs another."""
        ...

    @property
    def norm_momentum(self) -> float:
        """Momentum of the batch norms."""
        ...

    @property
    def features_prefix(self) -> str:
        """Prefix of the features' tensor names in a classifier's state dict, for example "features."."""
        ...

    @property
    def geometry(self) -> Mapping[str, JSON]:
        """Default options of a classifier that its tensors do not show."""
        ...

    def __call__(self, **options: Any) -> nn.Module:
        """Build the classifier."""
        ...

    def defaults(self, given: Mapping[str, Any], output_stride: int) -> dict[str, JSON]:
        """Return the options that apply to this backbone, with their default values.

        Args:
            given: Options chosen by the caller, without those that are None.
            output_stride: Output stride that the head prefers.

        Returns:
            The options by name. None marks an option that is not in use by default. Options that would have no effect
            together with `given` are left out.

        Raises:
            ValueError: If chosen options contradict each other.
        """
        ...

    def stages(self, options: Mapping[str, Any]) -> Stages:
        """Return the feature maps of the network with these resolved options."""
        ...

    def unused_prefixes(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the name prefixes of a classifier's tensors that the features do not include with these options."""
        ...

    def build(self, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
        """Build the backbone.

        Args:
            options: Resolved options of the builder.
            norm_layer: Factory that builds a norm layer for a given number of channels.

        Returns:
            Module whose children, run in order, compute the feature maps at the paths given by `stages`. It becomes
            the `model` of an IntermediateLayerGetter.
        """
        ...


def check_classes(num_classes: Any) -> int:
    """Return the number of classes of a classifier as an int.

    Raises:
        ValueError: If it is not a whole number of at least 0.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 0:
        raise ValueError(
            f"num_classes={num_classes!r}: expected a whole number of classes, or 0 for a classifier without its last "
            "layers"
        )
    return int(num_classes)


def classifier_norm(options: dict[str, Any], *, eps: float, momentum: float) -> NormLayer | None:
    """Pop `norm_layer` and `norm_eps` from a classifier's options.

    Args:
        options: Options of the classifier, changed in place. `norm_layer` is a name or a factory.
        eps: Default of `norm_eps`.
        momentum: Momentum of the batch norms.

    Returns:
        The factory of the norms, or None for the network's own.

    Raises:
        ValueError: If one of the two has a value that is not allowed.
    """
    norm, own_eps = options.pop("norm_layer", None), options.pop("norm_eps", None)
    if callable(norm):
        if own_eps is not None:
            raise ValueError(
                f"norm_eps={own_eps!r}: norm_layer is a function and sets eps itself; pass only one of the two"
            )
        factory: NormLayer = norm
        return factory
    if norm is None and own_eps is None:
        return None
    check_values({"norm_layer": norm or "batch", "norm_eps": eps if own_eps is None else own_eps})
    return norm_layer(norm or "batch", eps=eps if own_eps is None else float(own_eps), momentum=momentum)


def classifier_config(name: str, num_classes: int, options: Mapping[str, Any]) -> ModelConfig | None:
    """Return the config of a classifier, or None if its norms come from a function, which no file can store."""
    if callable(options.get("norm_layer")):
        return None
    recorded = {key: _plain(key, value) for key, value in options.items() if value is not None}
    recorded.pop("zero_init_residual", None)  # only affects the initial values
    return ModelConfig(name, {"num_classes": num_classes, **recorded})


def _plain(name: str, value: Any) -> JSON:
    """Convert the value of one of our options, or of torchvision's (numbers, lists of bools), to JSON."""
    if name in NAMES:
        return as_json(name, value)
    result: JSON = [bool(item) for item in value] if isinstance(value, Sequence) else value
    return result
