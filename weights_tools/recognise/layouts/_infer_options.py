"""Infer options of a network from its tensors' shapes and segnets names."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from segnets.card import JSON
from segnets.options import DEFAULTS
from segnets.registry import BACKBONES
from weights_tools.recognise.layouts._backbone import BACKBONE
from weights_tools.recognise.layouts._mobilenet import identify_mobilenet
from weights_tools.recognise.layouts._resnet import identify_resnet, infer_resnet_options
from weights_tools.recognise.layouts.base import Tensors
from weights_tools.recognise.layouts.network_table import BackboneTable


def identify_backbone(ours: Tensors, table: BackboneTable, known: Mapping[str, JSON]) -> tuple[str, str]:
    """Identify the backbone of a network.

    Args:
        ours: Tensors of the network by their names in segnets.
        table: Table used to rename the backbone.
        known: Options from the caller or from the project's config.

    Returns:
        A pair of the backbone's name and a description of an unsupported backbone, one of them "".
    """
    mobilenet = identify_mobilenet(ours, BACKBONE)
    if mobilenet is not None:
        return mobilenet
    group_norm = known.get("norm_layer") == "group"
    resnet = identify_resnet(ours, BACKBONE, variants=True, group_norm=group_norm, min_stages=table.min_stages)
    return ("", "an encoder that is neither a ResNet nor a MobileNetV3") if resnet is None else resnet


def infer_backbone_options(ours: Tensors, backbone: str) -> dict[str, JSON]:
    """Return the non-default backbone options that names and shapes determine."""
    if not backbone.startswith("mobilenet"):
        return infer_resnet_options(ours, BACKBONE)
    channels = ours[f"{BACKBONE}0.0.weight"].shape[1]
    return {} if channels == DEFAULTS["in_channels"] else {"in_channels": channels}


def select_classifier_options(options: Mapping[str, JSON], names: Collection[str], backbone: str) -> dict[str, JSON]:
    """Return the options that a classifier with this backbone records: applicable ones with non-default values.

    Args:
        options: Options with their values; None stands for the default.
        names: Names of the options to consider.
        backbone: Name of the backbone.
    """
    defaults = {"norm_layer": DEFAULTS["norm_layer"], **BACKBONES[backbone].geometry}
    if backbone in ("resnet18", "resnet34"):
        defaults.pop("stride_in_1x1")  # basic blocks have no 1x1 convolution
    return {
        name: value
        for name, value in options.items()
        if name in names and name in defaults and value is not None and value != defaults[name]
    }


def infer_head_options(ours: Tensors) -> dict[str, JSON]:
    """Return the options that the names and shapes of the head determine."""
    options: dict[str, JSON] = {}
    for aspp in ("classifier.0.", "classifier.aspp."):
        if f"{aspp}project.0.weight" in ours:
            options["aspp_separable"] = f"{aspp}convs.1.0.0.weight" in ours
            options["pool_norm"] = f"{aspp}convs.4.2.weight" in ours
    if "classifier.fuse.0.weight" in ours and "classifier.pyramid.0.1.weight" in ours:
        options["head_variant"] = "smp" if ours["classifier.fuse.0.weight"].shape[2:] == (1, 1) else "mmseg"
        options["pool_norm"] = "classifier.pyramid.0.2.weight" in ours
    first_layers = (
        "classifier.0.convs.0.0.weight",
        "classifier.aspp.convs.0.0.weight",
        "classifier.pyramid.0.1.weight",
    )
    first = next((ours[name] for name in first_layers if name in ours), None)
    if first is not None and len(first.shape) == 4 and "backbone.layer1.0.conv1.weight" in ours:
        expansion = 4 if "backbone.layer1.0.conv3.weight" in ours else 1
        stages = {64 * expansion << stage: stage + 1 for stage in (1, 2, 3)}.get(first.shape[1], 4)
        options["backbone_stages"] = stages
        if stages < 4 and "classifier.pyramid.0.1.weight" in ours:  # SMP's PSPNet does not dilate
            options["output_stride"] = 2 << stages
    return options


def is_used(name: str, options: Mapping[str, JSON]) -> bool:
    """Return whether the network runs a tensor's module. SMP's encoders keep stages that are never run."""
    stages = options.get("backbone_stages")
    return not any(name.startswith(f"backbone.layer{i}.") for i in (3, 4) if isinstance(stages, int) and i > stages)
