"""Tables of C++ programs that train with LibTorch and save with torch::save.

Navifra-Kerry/SemanticSegmentation-Libtorch (by kerry-Cho), models/segmentation/: torchvision's names, a different eps.
AllentDan/LibtorchSegmentation, src/architectures/DeepLab*.cpp and src/backbones/ResNet.cpp: SMP in C++.
"""

from __future__ import annotations

from segnets.card import JSON
from weights_tools.recognise.layouts.key_map import KeyMap
from weights_tools.recognise.layouts.network_table import BackboneTable, NetworkTable
from weights_tools.recognise.layouts.tables._resnet import resnet_keys

_NAVIFRA_BACKBONES = (BackboneTable("backbone.conv1.weight", resnet_keys("backbone.")),)
_SAME: KeyMap = {"classifier": "classifier", "aux_classifier": "aux_classifier"}

NAVIFRA = (
    NetworkTable(
        "DeepLabV3",
        "classifier.0.convs.0.0.weight",
        "deeplabv3",
        _NAVIFRA_BACKBONES,
        _SAME,
        "classifier.4",
        {"head_norm_eps": 1e-3, "aspp_norm_eps": 1e-5},
        unique=False,
    ),
    NetworkTable(
        "FCN",
        "classifier.0.weight",
        "fcn",
        _NAVIFRA_BACKBONES,
        _SAME,
        "classifier.4",
        {"head_norm_eps": 1e-3},
        unique=False,
    ),
)

_BACKBONES = (BackboneTable("encoder.conv1.weight", resnet_keys("encoder.")),)
_RULES: dict[str, JSON] = {"first_block_dilation": "same", "basic_block_dilation": "both", "align_corners": True}


def _aspp(theirs: str, ours: str) -> KeyMap:
    return {
        f"{theirs}.aspppooling.seq.1": f"{ours}.convs.4.1",
        f"{theirs}.aspppooling.seq.2": f"{ours}.convs.4.2",
        f"{theirs}.project": f"{ours}.project",
    }


ALLENTDAN = (
    NetworkTable(
        "DeepLabV3",
        "decoder.seq.0.modules.0.0.weight",
        "deeplabv3",
        _BACKBONES,
        {
            **{f"decoder.seq.0.modules.{i}": f"classifier.0.convs.{i}" for i in range(4)},
            **_aspp("decoder.seq.0", "classifier.0"),
            "decoder.seq.1": "classifier.1",
            "decoder.seq.2": "classifier.2",
            "segmentation_head.conv2d": "classifier.4",
        },
        "classifier.4",
        {**_RULES, "output_stride": 8, "atrous_rates": [12, 24, 36]},  # both hardcoded in the program
        unused=("encoder.fc",),
    ),
    NetworkTable(
        "DeepLabV3+",
        "decoder.aspp.modules.0.0.weight",
        "deeplabv3plus",
        _BACKBONES,
        {
            "decoder.aspp.modules.0": "classifier.aspp.convs.0",
            # Their separable convolution is two modules of the branch; ours is one.
            **{
                f"decoder.aspp.modules.{branch}.{layer}": f"classifier.aspp.convs.{branch}.{ours}"
                for branch in (1, 2, 3)
                for layer, ours in ((0, "0.0"), (1, "0.1"), (2, "1"))
            },
            **_aspp("decoder.aspp", "classifier.aspp"),
            "decoder.aspp_seq.0": "classifier.refine.0.0",
            "decoder.aspp_seq.1": "classifier.refine.0.1",
            "decoder.aspp_seq.2": "classifier.refine.1",
            "decoder.block1": "classifier.project_low",
            "decoder.block2.0": "classifier.fuse.0.0",
            "decoder.block2.1": "classifier.fuse.0.1",
            "decoder.block2.2": "classifier.fuse.1",
            "segmentation_head.conv2d": "classifier.classify",
        },
        "classifier.classify",
        {**_RULES, "head_variant": "smp"},
        {"output_stride": 16, "atrous_rates": [12, 24, 36]},
        unused=("encoder.fc",),
    ),
)
