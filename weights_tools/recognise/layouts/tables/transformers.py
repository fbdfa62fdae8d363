"""Tables of transformers: ResNetForImageClassification and ResNetModel. Source: models/resnet/modeling_resnet.py."""

from __future__ import annotations

from weights_tools.recognise.layouts.key_map import KeyMap
from weights_tools.recognise.layouts.network_table import BackboneTable, NetworkTable


def _keys(prefix: str) -> KeyMap:
    keys = {
        f"{prefix}embedder.embedder.convolution": "backbone.conv1",
        f"{prefix}embedder.embedder.normalization": "backbone.bn1",
    }
    for stage in range(4):
        theirs, ours = f"{prefix}encoder.stages.{stage}.layers.{{}}", f"backbone.layer{stage + 1}.{{}}"
        keys[f"{theirs}.shortcut.convolution"] = f"{ours}.downsample.0"
        keys[f"{theirs}.shortcut.normalization"] = f"{ours}.downsample.1"
        for layer in range(3):
            keys[f"{theirs}.layer.{layer}.convolution"] = f"{ours}.conv{layer + 1}"
            keys[f"{theirs}.layer.{layer}.normalization"] = f"{ours}.bn{layer + 1}"
    return keys


BACKBONES = tuple(
    BackboneTable(f"{prefix}embedder.embedder.convolution.weight", _keys(prefix))
    for prefix in ("resnet.", "")  # ResNetForImageClassification, ResNetModel
)

TRANSFORMERS = (
    NetworkTable(
        "ResNet",
        "resnet.embedder.embedder.convolution.weight",
        "",
        BACKBONES,
        {"classifier.1": "fc"},
        "fc",
        choices={"stride_in_1x1": False},  # downsample_in_bottleneck in config.json
        look_alikes={"": "a ResNet whose config.json has downsample_in_first_stage or a hidden_act other than relu"},
    ),
)
