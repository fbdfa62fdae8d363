"""Builders: put a head on a backbone and return the network with random weights.

All published hyperparameters are defined here. Loading weights is a separate step: `segnets.weights.pretrained` wraps
these builders with `weights=`. After `torch.manual_seed(s)`, the six networks that torchvision also has start
from the same weights as torchvision's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from segnets import backbones
from segnets.backbones import BackboneSpec, IntermediateLayerGetter, Stage
from segnets.card import JSON, ModelConfig
from segnets.errors import UnsupportedOptionError
from segnets.heads import DEEPLABV3, FCN, LRASPP, FCNHead, HeadInput, HeadSpec
from segnets.layers import norm_layer
from segnets.model import SegmentationModel
from segnets.options import DEFAULTS, Options, as_json, check_applicable, check_values

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Builder:
    """Builder for networks with one head on one backbone.

    Called with the keyword arguments `segnets.options.Options`, it returns a `SegmentationModel`.

    Attributes:
        head: Description of the head.
        backbone: Description of the backbone.
        published: Defaults of the published network that differ from those of its head. They hold at the published
            output stride, with the head's default variant.
        name: Name of the network, by default "<head>_<backbone>".

    Raises:
        TypeError: If a name in `published` is not an option.
        ValueError: If `published` has a value that is not allowed.
    """

    head: HeadSpec
    backbone: BackboneSpec
    published: Mapping[str, JSON] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        check_values({name: value for name, value in self.published.items() if value is not None})
        object.__setattr__(self, "name", self.name or f"{self.head.name}_{self.backbone.name}")

    @property
    def title(self) -> str:
        """One line about the network, for `help()`."""
        title, _, paper = self.head.title.partition(", ")
        return f"{title} on a {self.backbone.title}, output stride {self.resolve({})['output_stride']}. {paper}"

    def resolve(self, chosen: Mapping[str, Any]) -> dict[str, JSON]:
        """Resolve the options in use, without building anything.

        Args:
            chosen: Options set by the caller; None means the network's own default.

        Returns:
            JSON-able values of the options by name, enough to rebuild the same network.

        Raises:
            TypeError: If an option name is unknown.
            ValueError: If an option has a value that is not allowed, would have no effect, or contradicts another.
        """
        return {name: value for name, value in self.applicable(chosen).items() if value is not None}

    def applicable(self, chosen: Mapping[str, Any]) -> dict[str, JSON]:
        """Return the options of `resolve`, plus None for those that apply but are not in use."""
        given = {name: value for name, value in chosen.items() if value is not None}
        check_values(given)
        if given.get("aux_loss") and not self.head.auxiliary:
            # The paper's LR-ASPP has no such classifier.
            raise UnsupportedOptionError(f"{self.name} has no auxiliary classifier. Remove aux_loss.")
        resolved: dict[str, JSON] = {name: DEFAULTS[name] for name in ("num_classes", "aux_loss")}
        resolved.update(self.backbone.defaults(given, self.head.output_stride))
        resolved.update(self._head_defaults(given, {**resolved, **given}))
        check_applicable(self.name, given, resolved)
        resolved.update({name: as_json(name, value) for name, value in given.items() if name in resolved})
        if resolved.get("downsample") == "average_dilated" and not self._is_dilated(resolved):
            resolved["downsample"] = "average"  # equivalent without dilation
        if resolved.get("aspp_norm_eps") == resolved["head_norm_eps"]:
            resolved["aspp_norm_eps"] = None  # equivalent to leaving the option out, so recorded the same way
        paths = [stage.path for stage in self._feature_maps(resolved).values()]
        if len(set(paths)) < len(paths):
            few = (
                f"backbone_stages={resolved['backbone_stages']} are too few for "
                if "backbone_stages" in resolved
                else ""
            )
            raise ValueError(f"{few}{self.name}, which would read one feature map twice ({', '.join(paths)})")
        _check_norm_eval(given.get("norm_eval"), resolved)
        return resolved

    def _head_defaults(self, given: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, JSON]:
        variant = given.get("head_variant", self.head.variants[0])
        if variant not in self.head.variants:
            raise ValueError(f"head_variant={variant!r}: {self.head.name} has {' and '.join(self.head.variants)}")
        stages = self.backbone.stages(resolved)
        as_published = variant == self.head.variants[0] and resolved["output_stride"] == self.backbone.output_stride
        norm = resolved["norm_layer"]
        return {
            "head_variant": variant,
            **self.head.defaults(variant, HeadInput(resolved["output_stride"], stages.out.channels)),
            **(copy.deepcopy(dict(self.published)) if as_published else {}),
            "head_norm_layer": "batch" if norm == "frozen" else norm,
            "head_norm_eps": DEFAULTS["head_norm_eps"],
            "align_corners": DEFAULTS["align_corners"],
        }

    def _is_dilated(self, options: Mapping[str, Any]) -> bool:
        """Return whether dilation replaces a stride."""
        return int(options["output_stride"]) < self.backbone.stages(options).out.stride

    def _feature_maps(self, options: Mapping[str, Any]) -> dict[str, Stage]:
        """Return the feature maps that the heads read, under the names that the heads use."""
        stages = self.backbone.stages(options)
        maps = {self.head.last_name: stages.out}
        if self.head.low is not None:
            maps["low"] = self.head.low(stages)
        if self.head.others is not None:
            maps.update(self.head.others(stages))
        if options["aux_loss"]:
            maps["aux"] = stages.aux
        return maps

    def __call__(self, **chosen: Unpack[Options]) -> SegmentationModel:
        """Build the network with random weights. Raises what `resolve` raises."""
        options: dict[str, Any] = self.resolve(chosen)
        momentum = self.backbone.norm_momentum
        backbone_norm = norm_layer(options["norm_layer"], eps=options["norm_eps"], momentum=momentum)
        head_norm = norm_layer(options["head_norm_layer"], eps=options["head_norm_eps"])
        maps = self._feature_maps(options)
        layers = self.backbone.build(options, backbone_norm)
        backbone = IntermediateLayerGetter(layers, {stage.path: name for name, stage in maps.items()})
        # The auxiliary head comes first, because torchvision draws its initial weights first.
        aux: nn.Module | None = None
        if options["aux_loss"]:
            aux = FCNHead(maps["aux"].channels, options["num_classes"], norm_layer=head_norm)
        low_channels = maps["low"].channels if "low" in maps else 0
        head_input = HeadInput(
            options["output_stride"],
            maps[self.head.last_name].channels,
            low_channels,
            {name: stage.channels for name, stage in maps.items() if name not in (self.head.last_name, "low", "aux")},
        )
        return SegmentationModel(
            backbone,
            self.head.build(options["num_classes"], head_input, options, head_norm),
            aux,
            align_corners=options["align_corners"],
            config=ModelConfig(self.name, options),
            gradient_checkpointing=bool(chosen.get("gradient_checkpointing")),
            norm_eval=chosen.get("norm_eval") or False,
        )


def _check_norm_eval(norm_eval: object, resolved: Mapping[str, Any]) -> None:
    parts = ("norm_layer",) if norm_eval == "backbone" else ("norm_layer", "head_norm_layer")
    if norm_eval and not {resolved[part] for part in parts} & {"batch", "sync"}:
        norms = ", ".join(f"{part}={resolved[part]!r}" for part in parts)
        raise ValueError(f"norm_eval={norm_eval!r} would have no effect: there is no batch norm ({norms})")


fcn_resnet50 = Builder(FCN, backbones.resnet50)
fcn_resnet101 = Builder(FCN, backbones.resnet101)
deeplabv3_resnet50 = Builder(DEEPLABV3, backbones.resnet50)
deeplabv3_resnet101 = Builder(DEEPLABV3, backbones.resnet101)
# torchvision and the published weights use the rates for output stride 8 here.
deeplabv3_mobilenet_v3_large = Builder(DEEPLABV3, backbones.mobilenet_v3_large, {"atrous_rates": [12, 24, 36]})
lraspp_mobilenet_v3_large = Builder(LRASPP, backbones.mobilenet_v3_large)

# Networks that torchvision also has.
PUBLISHED = (
    deeplabv3_mobilenet_v3_large,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
    fcn_resnet50,
    fcn_resnet101,
    lraspp_mobilenet_v3_large,
)
