"""A head on a backbone: every network is built here, with random weights. Every published number stands here.

Loading weights is a second step, a floor up: `segnets.weights` wraps these builders with `weights=`.
After `torch.manual_seed(s)` the six of torchvision draw the same initial weights as torchvision's builder of that name.
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
    """Builds the networks of one head on one backbone; called with `segnets.options.Options`, returns one of them.

    published: defaults of the published network that are not those of its head, at its published output stride.

    Raises ValueError for an option that can't have its value, would change nothing, or contradicts another.
    """

    head: HeadSpec
    backbone: BackboneSpec
    published: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.head.name}_{self.backbone.name}"

    @property
    def title(self) -> str:
        title, _, paper = self.head.title.partition(", ")
        return f"{title} on a {self.backbone.title}, output stride {self.resolve({})['output_stride']}. {paper}"

    def resolve(self, chosen: Mapping[str, Any]) -> dict[str, JSON]:
        """Every option that applies, with its value: what builds the same network again. Nothing is built."""
        return {name: value for name, value in self.applicable(chosen).items() if value is not None}

    def applicable(self, chosen: Mapping[str, Any]) -> dict[str, JSON]:
        """As `resolve`, with None for an option that applies and is not in use."""
        given = {name: value for name, value in chosen.items() if value is not None}
        check_values(given)
        if given.get("aux_loss") and not self.head.auxiliary:
            # The paper's LR-ASPP has no such classifier.
            raise UnsupportedOptionError(f"{self.name} has no auxiliary classifier; leave aux_loss out")
        settled: dict[str, JSON] = {name: DEFAULTS[name] for name in ("num_classes", "aux_loss")}
        settled.update(self.backbone.defaults(given, self.head.output_stride))
        settled.update(self._head_defaults(given, {**settled, **given}))
        check_applicable(self.name, given, settled)
        settled.update({name: as_json(name, value) for name, value in given.items() if name in settled})
        if settled.get("downsample") == "average_dilated" and not self._is_dilated(settled):
            settled["downsample"] = "average"  # there they are one
        if settled.get("aspp_norm_eps") == settled["head_norm_eps"]:
            settled["aspp_norm_eps"] = None  # as it is without the option, so recorded alike
        paths = [stage.path for stage in self._feature_maps(settled).values()]
        if len(set(paths)) < len(paths):
            raise ValueError(
                f"backbone_stages={settled['backbone_stages']} are too few for {self.name}: it would read one feature "
                f"map twice ({', '.join(paths)})"
            )
        _check_norm_eval(given.get("norm_eval"), settled)
        return settled

    def _head_defaults(self, given: Mapping[str, Any], settled: Mapping[str, Any]) -> dict[str, JSON]:
        variant = given.get("head_variant", self.head.variants[0])
        if variant not in self.head.variants:
            raise ValueError(f"head_variant={variant!r}: {self.head.name} has {' and '.join(self.head.variants)}")
        stages = self.backbone.stages(settled)
        as_published = variant == self.head.variants[0] and settled["output_stride"] == self.backbone.output_stride
        norm = settled["norm_layer"]
        return {
            "head_variant": variant,
            **self.head.defaults(variant, HeadInput(settled["output_stride"], stages.out.channels)),
            **(copy.deepcopy(dict(self.published)) if as_published else {}),
            "head_norm_layer": "batch" if norm == "frozen" else norm,
            "head_norm_eps": DEFAULTS["head_norm_eps"],
            "align_corners": DEFAULTS["align_corners"],
        }

    def _is_dilated(self, options: Mapping[str, Any]) -> bool:
        """Whether dilation took the place of a stride."""
        return int(options["output_stride"]) < self.backbone.stages(options).out.stride

    def _feature_maps(self, options: Mapping[str, Any]) -> dict[str, Stage]:
        """What the classifiers read, by the names that they give it."""
        stages = self.backbone.stages(options)
        maps = {self.head.last_name: stages.out}
        if self.head.low is not None:
            maps["low"] = self.head.low(stages)
        if options["aux_loss"]:
            maps["aux"] = stages.aux
        return maps

    def __call__(self, **chosen: Unpack[Options]) -> SegmentationModel:
        options: dict[str, Any] = self.resolve(chosen)
        momentum = self.backbone.norm_momentum
        backbone_norm = norm_layer(options["norm_layer"], eps=options["norm_eps"], momentum=momentum)
        head_norm = norm_layer(options["head_norm_layer"], eps=options["head_norm_eps"])
        maps = self._feature_maps(options)
        layers = self.backbone.build(options, backbone_norm)
        backbone = IntermediateLayerGetter(layers, {stage.path: name for name, stage in maps.items()})
        # The auxiliary head comes first: the order in which torchvision draws the initial weights.
        aux: nn.Module | None = None
        if options["aux_loss"]:
            aux = FCNHead(maps["aux"].channels, options["num_classes"], norm_layer=head_norm)
        low_channels = maps["low"].channels if "low" in maps else 0
        head_input = HeadInput(options["output_stride"], maps[self.head.last_name].channels, low_channels)
        return SegmentationModel(
            backbone,
            self.head.build(options["num_classes"], head_input, options, head_norm),
            aux,
            align_corners=options["align_corners"],
            config=ModelConfig(self.name, options),
            gradient_checkpointing=bool(chosen.get("gradient_checkpointing")),
            norm_eval=chosen.get("norm_eval") or False,
        )


def _check_norm_eval(norm_eval: object, settled: Mapping[str, Any]) -> None:
    parts = ("norm_layer",) if norm_eval == "backbone" else ("norm_layer", "head_norm_layer")
    if norm_eval and not {settled[part] for part in parts} & {"batch", "sync"}:
        norms = ", ".join(f"{part}={settled[part]!r}" for part in parts)
        raise ValueError(f"norm_eval={norm_eval!r} would change nothing: there is no batch norm ({norms})")


fcn_resnet50 = Builder(FCN, backbones.resnet50)
fcn_resnet101 = Builder(FCN, backbones.resnet101)
deeplabv3_resnet50 = Builder(DEEPLABV3, backbones.resnet50)
deeplabv3_resnet101 = Builder(DEEPLABV3, backbones.resnet101)
# torchvision gave it the rates of output stride 8, and so did those who trained its weights.
deeplabv3_mobilenet_v3_large = Builder(DEEPLABV3, backbones.mobilenet_v3_large, {"atrous_rates": [12, 24, 36]})
lraspp_mobilenet_v3_large = Builder(LRASPP, backbones.mobilenet_v3_large)

# The networks that torchvision has too.
PUBLISHED = (
    deeplabv3_mobilenet_v3_large,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
    fcn_resnet50,
    fcn_resnet101,
    lraspp_mobilenet_v3_large,
)
