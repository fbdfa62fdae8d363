"""transformers: ResNetForImageClassification and ResNetModel. Source: models/resnet/modeling_resnet.py."""

from __future__ import annotations

from weights_tools.recognise.layouts.key_map import BackboneTable, NetworkTable, Table


def _table(prefix: str) -> Table:
    table = {
        f"{prefix}embedder.embedder.convolution": "backbone.conv1",
        f"{prefix}embedder.embedder.normalization": "backbone.bn1",
    }
    for stage in range(4):
        theirs, ours = f"{prefix}encoder.stages.{stage}.layers.{{}}", f"backbone.layer{stage + 1}.{{}}"
        table[f"{theirs}.shortcut.convolution"] = f"{ours}.downsample.0"
        table[f"{theirs}.shortcut.normalization"] = f"{ours}.downsample.1"
        for layer in range(3):
            table[f"{theirs}.layer.{layer}.convolution"] = f"{ours}.conv{layer + 1}"
            table[f"{theirs}.layer.{layer}.normalization"] = f"{ours}.bn{layer + 1}"
    return table


BODIES = tuple(
    BackboneTable(f"{prefix}embedder.embedder.convolution.weight", _table(prefix))
    for prefix in ("resnet.", "")  # the classifier, and the network without it
)

TRANSFORMERS = (
    NetworkTable(
        "ResNet",
        "resnet.embedder.embedder.convolution.weight",
        "",
        BODIES,
        {"classifier.1": "fc"},
        "fc",
        choices={"stride_in_1x1": False},  # downsample_in_bottleneck of its configuration
        look_alikes={"": "a ResNet with downsample_in_first_stage or another hidden_act than relu in its config.json"},
    ),
)
