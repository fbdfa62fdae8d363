"""Tables of VainF/DeepLabV3Plus-Pytorch, network/. The default output stride is 16. It sets the atrous rates."""

from __future__ import annotations

from weights_tools.recognise.layouts.network_table import BackboneTable, NetworkTable
from weights_tools.recognise.layouts.tables._resnet import resnet_keys

BACKBONES = (BackboneTable("backbone.conv1.weight", resnet_keys("backbone.")),)

VAINF = (
    NetworkTable(
        "DeepLabV3",
        "classifier.classifier.0.convs.0.0.weight",
        "deeplabv3",
        BACKBONES,
        {"classifier.classifier": "classifier"},
        "classifier.4",
        {},
        {"output_stride": 16},
    ),
    NetworkTable(
        "DeepLabV3+",
        "classifier.aspp.convs.0.0.weight",
        "deeplabv3plus",
        BACKBONES,
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
