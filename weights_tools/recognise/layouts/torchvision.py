"""Match networks of torchvision: the six for segmentation, and the ResNets and MobileNetV3s for classification.

segnets uses torchvision's names, so no tensor is renamed. The rules separate these networks from similar ones.
Source: torchvision 0.28, models/segmentation/*.py, models/resnet.py, models/mobilenetv3.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from segnets.card import JSON, ModelConfig
from segnets.registry import BACKBONES
from weights_tools.recognise.layouts._mobilenet import identify_mobilenet
from weights_tools.recognise.layouts._resnet import identify_resnet
from weights_tools.recognise.layouts._unsupported import name_unsupported
from weights_tools.recognise.layouts.base import Evidence, ExportNames, Match, Tensors

# (backbone, head) -> network.
_SEGMENTATION = {
    ("resnet50", "FCN"): "fcn_resnet50",
    ("resnet101", "FCN"): "fcn_resnet101",
    ("resnet50", "DeepLabV3"): "deeplabv3_resnet50",
    ("resnet101", "DeepLabV3"): "deeplabv3_resnet101",
    ("mobilenet_v3_large", "DeepLabV3"): "deeplabv3_mobilenet_v3_large",
    ("mobilenet_v3_large", "LR-ASPP"): "lraspp_mobilenet_v3_large",
}
# Tensor whose first dimension is the number of classes.
_LAST = {
    "FCN": "classifier.4.weight",
    "DeepLabV3": "classifier.4.weight",
    "LR-ASPP": "classifier.low_classifier.weight",
}

_RESNET_GEOMETRY: dict[str, JSON] = {
    "batch_norm_eps": 1e-5,
    "stride_in": "the 3x3 convolution",
    "stem": "7x7 convolution",
    "channel_order": "RGB",
}
_FIRST_BLOCK = "first_block_of_a_dilated_stage"
_MOBILENET_GEOMETRY: dict[str, JSON] = {"batch_norm_eps": 1e-3, "padding": "symmetric", "channel_order": "RGB"}
_DILATED_GEOMETRY: dict[str, JSON] = {
    "align_corners": False,
    "head_batch_norm_eps": 1e-5,
}
_ASSUMED = (
    "the weights do not determine the geometry: assumed torchvision's. For a segnets network with other options, "
    "use --layout segnets --option NAME=VALUE"
)
# Backbone -> geometry of its dilated form. The first block of a MobileNet's dilated stage is dilated too.
_DILATED_BACKBONES: dict[str, dict[str, JSON]] = {
    "resnet": {_FIRST_BLOCK: "keeps the previous dilation", "output_stride": 8},
    "mobilenet": {_FIRST_BLOCK: "has the dilation of its stage", "output_stride": 16},
}


class TorchvisionLayout:
    """Layout of torchvision; see `base.Layout`."""

    name = "torchvision"
    version = 1

    def match(self, evidence: Evidence) -> Match | str | None:
        """Recognise a network; see `base.Layout.match`."""
        tensors = evidence.tensors
        if any(name.startswith("backbone.") for name in tensors):
            backbone = _identify_backbone(tensors, "backbone.", features="backbone.")
            found = None if backbone is None else self._match_segmentation(tensors, backbone)
        else:
            backbone = _identify_backbone(tensors, "", features="features.")
            found = None if backbone is None else self._match_classifier(tensors, backbone)
        return _refuse_chosen(evidence) if evidence.chosen and isinstance(found, Match) else found

    def match_backbone(self, evidence: Evidence) -> Match | str | None:
        """Recognise the features of any network that has torchvision's names for them."""
        tensors = evidence.tensors
        inside = any(name.startswith("backbone.") for name in tensors)
        prefix = "backbone." if inside else ""
        backbone = _identify_backbone(tensors, prefix, features="backbone." if inside else "features.")
        if backbone is None:
            return None
        network, unsupported = backbone
        if unsupported:
            return f"the backbone looks like {unsupported}, which torchvision does not have"
        if evidence.chosen:
            return _refuse_chosen(evidence)
        features = BACKBONES[network].features_prefix
        names = {
            features + name.removeprefix("backbone.") if inside else name: name
            for name in tensors
            if _is_feature(name, network, inside)
        }
        geometry = _MOBILENET_GEOMETRY if network.startswith("mobilenet") else _RESNET_GEOMETRY
        unused = tuple(name for name in tensors if name not in names.values())
        return Match(self.name, self.version, ModelConfig(network, {"num_classes": 0}), names, geometry, unused=unused)

    def export_names(self, config: ModelConfig, names: Sequence[str]) -> Iterator[ExportNames]:  # noqa: ARG002
        """Yield our names, which are torchvision's."""
        yield ExportNames({name: name for name in names})

    def _match_segmentation(self, tensors: Tensors, backbone: tuple[str, str]) -> Match | str | None:
        network, unsupported = backbone
        head = _identify_head(tensors)
        if head is None and name_unsupported(tensors):
            return None
        if head is None:
            if {name.split(".")[0] for name in tensors} - {"backbone", "aux_classifier"}:
                return None
            return (
                f"the tensors are only the backbone of a segmentation network ({network or unsupported}), without a "
                "classifier; --backbone-only converts it"
            )
        if unsupported:
            way = "; --layout segnets converts it" if unsupported.endswith("input channels") else ""
            return f"the tensors look like a {head} on {unsupported}, which torchvision does not have{way}"
        name = _SEGMENTATION.get((network, head))
        if name is None:
            return (
                f"the tensors look like a {head} on a {network} backbone, which torchvision does not have. It has "
                + ", ".join(sorted(_SEGMENTATION.values()))
                + ". For a segnets network, use --layout segnets"
            )
        classes = tensors[_LAST[head]].shape[0]
        if classes < 1:
            return f"the last layer {_LAST[head]!r} has no classes"
        options: dict[str, JSON] = {"num_classes": classes}
        if head != "LR-ASPP":
            options["aux_loss"] = any(key.startswith("aux_classifier.") for key in tensors)
        family = "mobilenet" if network.startswith("mobilenet") else "resnet"
        geometry = {
            **(_MOBILENET_GEOMETRY if family == "mobilenet" else _RESNET_GEOMETRY),
            **_DILATED_GEOMETRY,
            **_DILATED_BACKBONES[family],
        }
        if head == "DeepLabV3":
            geometry["atrous_rates"] = [12, 24, 36]
        names = {key: key for key in tensors}
        return Match(self.name, self.version, ModelConfig(name, options), names, geometry, (_ASSUMED,))

    def _match_classifier(self, tensors: Tensors, backbone: tuple[str, str]) -> Match | str | None:
        network, unsupported = backbone
        if unsupported:
            return f"the tensors look like {unsupported}, which torchvision does not have"
        is_mobilenet = network.startswith("mobilenet")
        last = "classifier.3.weight" if is_mobilenet else "fc.weight"
        if last not in tensors:
            return (
                f"the tensors are those of a {network} without its classifier ({last!r} is missing); "
                "--backbone-only converts the backbone"
            )
        shape = tensors[last].shape
        if len(shape) != 2 or shape[0] < 1:
            return f"the last layer {last!r} has shape {shape}; expected (classes, features)"
        geometry = _MOBILENET_GEOMETRY if is_mobilenet else _RESNET_GEOMETRY
        config = ModelConfig(network, {"num_classes": shape[0]})
        return Match(self.name, self.version, config, {key: key for key in tensors}, geometry)


def _refuse_chosen(evidence: Evidence) -> str:
    name = next(iter(evidence.chosen))
    return (
        f"the option {name} cannot be chosen: torchvision's networks have a fixed geometry. For a segnets network with "
        f"other options, use --layout segnets --option {name}=VALUE"
    )


def _identify_backbone(tensors: Tensors, prefix: str, features: str) -> tuple[str, str] | None:
    """Return (name, "") of a backbone, ("", description) of an unsupported one, or None if there is none."""
    mobilenet = identify_mobilenet(tensors, features)
    if mobilenet is None:
        return identify_resnet(tensors, prefix)
    stem = tensors.get(f"{features}0.0.weight")
    if mobilenet[0] and stem is not None and stem.shape[1] != 3:
        return "", f"a {mobilenet[0]} with {stem.shape[1]} input channels"
    return mobilenet


def _is_feature(name: str, network: str, inside: bool) -> bool:
    if inside:
        return name.startswith("backbone.")
    return name.startswith("features." if network.startswith("mobilenet") else ("conv1.", "bn1.", "layer"))


def _identify_head(tensors: Tensors) -> str | None:
    if "classifier.0.convs.0.0.weight" in tensors and _dimensions(tensors, _LAST["DeepLabV3"]) == 4:
        return "DeepLabV3"
    if "classifier.cbr.0.weight" in tensors and _dimensions(tensors, _LAST["LR-ASPP"]) == 4:
        return "LR-ASPP"
    if _dimensions(tensors, "classifier.0.weight") == _dimensions(tensors, _LAST["FCN"]) == 4:
        return "FCN"
    return None


def _dimensions(tensors: Tensors, name: str) -> int:
    return len(tensors[name].shape) if name in tensors else 0
