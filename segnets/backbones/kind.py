"""What a backbone tells of itself before it is built, so that any head can be put on any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from segnets.card import JSON
from segnets.layers import NormLayer


@dataclass(frozen=True)
class Stage:
    """A feature map. path: the layer that gives it; stride: by how much it is smaller than the image, undilated."""

    path: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Stages:
    """The feature maps of a backbone. out: the last one; aux: where an auxiliary classifier reads; all: by stride."""

    all: tuple[Stage, ...]
    aux: Stage
    out: Stage

    def at_stride(self, stride: int) -> Stage:
        """The feature map that is smaller than the image by `stride`, dilation left aside."""
        return next(stage for stage in self.all if stage.stride == stride)


class BackboneKind(Protocol):
    """One backbone network. Called, it is a classifier: (N, in_channels, H, W) -> (N, num_classes) logits.

    name: "resnet50"; title: "ResNet-50"; output_stride: the default below a segmentation head;
    norm_momentum: of its batch norms.
    features: what a classifier's state dict has before the names of the features; dropped: the layers that features
    don't need.
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
    def features(self) -> str: ...

    @property
    def dropped(self) -> str: ...

    def __call__(self, **options: Any) -> nn.Module: ...

    def defaults(self, given: Mapping[str, Any], output_stride: int) -> dict[str, JSON]:
        """The options that apply where `given` are chosen, with their defaults. Raises ValueError for contradictions.

        output_stride: what the head wants unless it is given.
        """
        ...

    def stages(self, options: Mapping[str, Any]) -> Stages:
        """The feature maps with these options."""
        ...

    def layers(self, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
        """The network whose children, run one after the other, give the feature maps."""
        ...
