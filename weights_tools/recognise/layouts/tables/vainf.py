"""VainF/DeepLabV3Plus-Pytorch: network/. Its command line has output stride 16 by default, and rates that follow it."""

from __future__ import annotations

from weights_tools.recognise.layouts.key_map import BackboneTable, NetworkTable
from weights_tools.recognise.layouts.tables.timm import resnet_table

BODIES = (BackboneTable("backbone.conv1.weight", resnet_table("backbone.")),)

VAINF = (
    NetworkTable(
        "DeepLabV3",
        "classifier.classifier.0.convs.0.0.weight",
        "deeplabv3",
        BODIES,
        {"classifier.classifier": "classifier"},
        "classifier.4",
        {},
        {"output_stride": 16},
    ),
    NetworkTable(
        "DeepLabV3+",
        "classifier.aspp.convs.0.0.weight",
        "deeplabv3plus",
        BODIES,
        {
            "classifier.project": "classifier.project_low",
            "classifier.aspp": "classifier.aspp",
            "classifier.classifier.0": "classifier.fuse.0",
            "classifier.classifier.1": "classifier.fuse.1",
            "classifier.classifier.3": "classifier.classify",
        },
        "classifier.classify",
        {"head_variant": "vainf"},
        {"output_stride": 16},
    ),
)
