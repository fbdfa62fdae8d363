"""What the names and shapes of a network show of its options, once they are called as here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segnets.card import JSON
from segnets.registry import BACKBONES
from weights_tools.recognise.layouts._backbone import BACKBONE
from weights_tools.recognise.layouts._mobilenet import describe_mobilenet
from weights_tools.recognise.layouts._resnet import describe_resnet, resnet_variants
from weights_tools.recognise.layouts.base import Tensors
from weights_tools.recognise.layouts.key_map import BackboneTable


def describe_body(ours: Tensors, body: BackboneTable, known: Mapping[str, JSON]) -> tuple[str, str]:
    """Return (name of the backbone, "") or ("", what it looks like)."""
    mobile = describe_mobilenet(ours, BACKBONE)
    if mobile is not None:
        return mobile
    group_norm = known.get("norm_layer") == "group"
    resnet = describe_resnet(ours, BACKBONE, variants=True, group_norm=group_norm, stages=body.stages)
    return ("", "an encoder that is no ResNet and no MobileNetV3") if resnet is None else resnet


def options_of_backbone(ours: Tensors, network: str) -> dict[str, JSON]:
    """What the shapes show of the backbone's options."""
    if not network.startswith("mobilenet"):
        return resnet_variants(ours, BACKBONE)
    channels = ours[f"{BACKBONE}0.0.weight"].shape[1]
    return {} if channels == 3 else {"in_channels": channels}


def required_of_classifier(body: BackboneTable, network: str) -> dict[str, JSON]:
    """The options that a backbone needs and a classifier has too."""
    return options_of_classifier(body.required, body.required, network)


def options_of_classifier(
    options: Mapping[str, JSON], names: Mapping[str, JSON] | Sequence[str], network: str
) -> dict[str, JSON]:
    """Those options that a classifier of this kind has, where they are not its defaults."""
    kind = {"norm_layer": "batch", **BACKBONES[network].geometry}
    if network in ("resnet18", "resnet34"):
        kind.pop("stride_in_1x1")  # there is no 1x1 in a basic block
    return {
        name: value
        for name, value in options.items()
        if name in names and name in kind and value is not None and value != kind[name]
    }


def options_of_head(ours: Tensors) -> dict[str, JSON]:
    """Options of the head that its shapes show."""
    options: dict[str, JSON] = {}
    for aspp in ("classifier.0.", "classifier.aspp."):
        if f"{aspp}project.0.weight" in ours:
            options["aspp_separable"] = f"{aspp}convs.1.0.0.weight" in ours
            options["pool_norm"] = f"{aspp}convs.4.2.weight" in ours
    if "classifier.fuse.0.weight" in ours and "classifier.pyramid.0.1.weight" in ours:
        options["head_variant"] = "smp" if ours["classifier.fuse.0.weight"].shape[2:] == (1, 1) else "mmseg"
        options["pool_norm"] = "classifier.pyramid.0.2.weight" in ours
    reading = ("classifier.0.convs.0.0.weight", "classifier.aspp.convs.0.0.weight", "classifier.pyramid.0.1.weight")
    read = next((ours[name] for name in reading if name in ours), None)
    if read is not None and len(read.shape) == 4 and "backbone.layer1.0.conv1.weight" in ours:
        expansion = 4 if "backbone.layer1.0.conv3.weight" in ours else 1
        stages = {64 * expansion << stage: stage + 1 for stage in (1, 2, 3)}.get(read.shape[1], 4)
        options["backbone_stages"] = stages
        if stages < 4 and "classifier.pyramid.0.1.weight" in ours:  # SMP's PSPNet does not dilate
            options["output_stride"] = 2 << stages
    return options


def is_used(name: str, options: Mapping[str, JSON]) -> bool:
    """SMP's encoders keep the stages that a network of fewer never runs."""
    stages = options.get("backbone_stages")
    return not any(name.startswith(f"backbone.layer{i}.") for i in (3, 4) if isinstance(stages, int) and i > stages)
