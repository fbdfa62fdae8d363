"""Networks of torchvision: the six for segmentation, and the ResNets and MobileNetV3s for classification.

segnets uses torchvision's names, so no tensor is renamed; the work is to tell the networks and their look-alikes apart.
Source: torchvision 0.28, models/segmentation/*.py, models/resnet.py, models/mobilenetv3.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from segnets.card import JSON, ModelConfig
from segnets.registry import BACKBONES
from weights_tools.recognise.layouts._mobilenet import describe_mobilenet
from weights_tools.recognise.layouts._resnet import describe_resnet
from weights_tools.recognise.layouts._unsupported import name_unsupported
from weights_tools.recognise.layouts.base import Evidence, ExportNames, Match, Tensors

# Which network a backbone and a head make.
_SEGMENTATION = {
    ("resnet50", "FCN"): "fcn_resnet50",
    ("resnet101", "FCN"): "fcn_resnet101",
    ("resnet50", "DeepLabV3"): "deeplabv3_resnet50",
    ("resnet101", "DeepLabV3"): "deeplabv3_resnet101",
    ("mobilenet_v3_large", "DeepLabV3"): "deeplabv3_mobilenet_v3_large",
    ("mobilenet_v3_large", "LR-ASPP"): "lraspp_mobilenet_v3_large",
}
# The tensor whose first size is the number of classes.
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
_MOBILENET_GEOMETRY: dict[str, JSON] = {"batch_norm_eps": 1e-3, "padding": "symmetric", "channel_order": "RGB"}
_DILATED_GEOMETRY: dict[str, JSON] = {
    "align_corners": False,
    "first_block_of_a_dilated_stage": "keeps the previous dilation",
    "head_batch_norm_eps": 1e-5,
}
_ASSUMED = (
    "no tensor shows the geometry, which is torchvision's here; for a network of segnets with other options say "
    "--layout segnets --option NAME=VALUE"
)
_OUTPUT_STRIDE = {"resnet": 8, "mobilenet": 16}


class TorchvisionLayout:
    """See `weights_tools.recognise.layouts.base.Layout`."""

    name = "torchvision"
    version = 1

    def match(self, evidence: Evidence) -> Match | str | None:
        """Return the network, a reason to refuse a relative of it, or None."""
        found = self._recognised(evidence.tensors)
        if evidence.chosen and isinstance(found, Match):
            return f"a network of torchvision has one geometry; the option {next(iter(evidence.chosen))} is not open"
        return found

    def match_backbone(self, evidence: Evidence) -> Match | str | None:
        """The features of any of its networks, and of others that keep torchvision's names for them."""
        tensors = evidence.tensors
        inside = any(name.startswith("backbone.") for name in tensors)
        prefix = "backbone." if inside else ""
        body = _describe_body(tensors, prefix, features="backbone." if inside else "features.")
        if body is None:
            return None
        network, strange = body
        if strange:
            return f"its backbone looks like {strange}, which is no network of torchvision"
        if evidence.chosen:
            return f"a network of torchvision has one geometry; the option {next(iter(evidence.chosen))} is not open"
        kind = BACKBONES[network]
        names = {
            _feature(kind.features_prefix, name, inside): name for name in tensors if _is_feature(name, network, inside)
        }
        geometry = _MOBILENET_GEOMETRY if network.startswith("mobilenet") else _RESNET_GEOMETRY
        unused = tuple(name for name in tensors if name not in names.values())
        return Match(self.name, self.version, ModelConfig(network, {"num_classes": 0}), names, geometry, unused=unused)

    def export_names(self, config: ModelConfig, names: Sequence[str]) -> Iterator[ExportNames]:  # noqa: ARG002  (Layout gives it)
        """Its names are ours."""
        yield ExportNames({name: name for name in names})

    def _recognised(self, tensors: Tensors) -> Match | str | None:
        if any(name.startswith("backbone.") for name in tensors):
            body = _describe_body(tensors, "backbone.", features="backbone.")
            return None if body is None else self._segmentation(tensors, body)
        body = _describe_body(tensors, "", features="features.")
        return None if body is None else self._classification(tensors, body)

    def _segmentation(self, tensors: Tensors, body: tuple[str, str]) -> Match | str | None:
        network, strange = body
        head = _describe_head(tensors)
        if head is None and name_unsupported(tensors):
            return None
        if head is None:
            heads = {name.split(".")[0] for name in tensors} - {"backbone", "aux_classifier"}
            if heads:
                return None
            return (
                f"it holds only the backbone of a segmentation network ({network or strange}), no classifier; "
                "--backbone-only converts it"
            )
        if strange:
            return f"it looks like a {head} on {strange}, which is no network of torchvision"
        name = _SEGMENTATION.get((network, head))
        if name is None:
            return (
                f"it looks like a {head} on a {network} backbone, which is no network of torchvision; it has "
                + ", ".join(sorted(_SEGMENTATION.values()))
                + "; if segnets made it, --layout segnets"
            )
        classes = tensors[_LAST[head]].shape[0]
        if classes < 1:
            return f"its classifier {_LAST[head]!r} has no classes"
        options: dict[str, JSON] = {"num_classes": classes}
        if head != "LR-ASPP":
            options["aux_loss"] = any(key.startswith("aux_classifier.") for key in tensors)
        kind = "mobilenet" if network.startswith("mobilenet") else "resnet"
        geometry = {
            **(_MOBILENET_GEOMETRY if kind == "mobilenet" else _RESNET_GEOMETRY),
            **_DILATED_GEOMETRY,
            "output_stride": _OUTPUT_STRIDE[kind],
        }
        if head == "DeepLabV3":
            geometry["atrous_rates"] = [12, 24, 36]
        names = {key: key for key in tensors}
        return Match(self.name, self.version, ModelConfig(name, options), names, geometry, (_ASSUMED,))

    def _classification(self, tensors: Tensors, body: tuple[str, str]) -> Match | str | None:
        network, strange = body
        if strange:
            return f"it looks like {strange}, which is no network of torchvision"
        mobile = network.startswith("mobilenet")
        last = "classifier.3.weight" if mobile else "fc.weight"
        if last not in tensors:
            return (
                f"it holds a {network} without its classifier ({last!r} is missing); "
                "--backbone-only converts it as a backbone"
            )
        shape = tensors[last].shape
        if len(shape) != 2 or shape[0] < 1:
            return f"its classifier {last!r} has the shape {shape}; (classes, features) was expected"
        geometry = _MOBILENET_GEOMETRY if mobile else _RESNET_GEOMETRY
        config = ModelConfig(network, {"num_classes": shape[0]})
        return Match(self.name, self.version, config, {key: key for key in tensors}, geometry)


def _describe_body(tensors: Tensors, prefix: str, features: str) -> tuple[str, str] | None:
    """Return (name of torchvision's network, "") or ("", what it looks like), or None if it is no body of this kind."""
    mobile = describe_mobilenet(tensors, features)
    if mobile is None:
        return describe_resnet(tensors, prefix)
    stem = tensors.get(f"{features}0.0.weight")
    if mobile[0] and stem is not None and stem.shape[1] != 3:
        return "", f"a {mobile[0]} with {stem.shape[1]} input channels"
    return mobile


def _is_feature(name: str, network: str, inside: bool) -> bool:
    if inside:
        return name.startswith("backbone.")
    return name.startswith("features." if network.startswith("mobilenet") else ("conv1.", "bn1.", "layer"))


def _feature(features: str, name: str, inside: bool) -> str:
    """What a classifier calls it."""
    return features + name.removeprefix("backbone.") if inside else name


def _describe_head(tensors: Tensors) -> str | None:
    if "classifier.0.convs.0.0.weight" in tensors and len(tensors.get(_LAST["DeepLabV3"], _NOTHING).shape) == 4:
        return "DeepLabV3"
    if "classifier.cbr.0.weight" in tensors and len(tensors.get(_LAST["LR-ASPP"], _NOTHING).shape) == 4:
        return "LR-ASPP"
    first, last = tensors.get("classifier.0.weight"), tensors.get(_LAST["FCN"])
    if first is not None and last is not None and len(first.shape) == len(last.shape) == 4:
        return "FCN"
    return None


class _Nothing:
    shape: tuple[int, ...] = ()


_NOTHING = _Nothing()
