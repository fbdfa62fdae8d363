"""Tables of mmsegmentation 0.x and 1.x.

Source: mmsegmentation 1.2.2, models/decode_heads and models/backbones/resnet.py; 0.30 has the same names. Its published
configs have contract_dilation=True.
"""

from __future__ import annotations

from segnets.card import JSON
from weights_tools.recognise.layouts.key_map import KeyMap
from weights_tools.recognise.layouts.network_table import BackboneTable, NetworkTable
from weights_tools.recognise.layouts.tables._resnet import resnet_keys

BACKBONES = (
    BackboneTable(
        "backbone.stem.0.weight",
        {
            "backbone.stem.7": "backbone.bn1",
            "backbone.stem.{}": "backbone.conv1.{}",
            **{f"backbone.layer{stage}": f"backbone.layer{stage}" for stage in (1, 2, 3, 4)},
        },
    ),
    BackboneTable("backbone.conv1.weight", resnet_keys("backbone.")),
)
_AUXILIARY: KeyMap = {
    "auxiliary_head.convs.0.conv": "aux_classifier.0",
    "auxiliary_head.convs.0.bn": "aux_classifier.1",
    "auxiliary_head.conv_seg": "aux_classifier.4",
}
_RULES: dict[str, JSON] = {"basic_block_dilation": "first"}
_CHOICES: dict[str, JSON] = {
    "output_stride": 8,
    "first_block_dilation": "previous",
    "multi_grid": None,
    "align_corners": False,
    "norm_eps": 1e-5,
    "head_norm_eps": 1e-5,
    "stride_in_1x1": False,
}
_DILATED_HEAD = {"": "an FCNHead with a dilation (fcn-d6)"}

MMSEG = (
    NetworkTable(
        "FCN of two convolutions",
        "decode_head.conv_cat.conv.weight",
        "fcn",
        BACKBONES,
        {
            **_AUXILIARY,
            "decode_head.convs.{}.conv": "classifier.convs.{}.0",
            "decode_head.convs.{}.bn": "classifier.convs.{}.1",
            "decode_head.conv_cat.conv": "classifier.fuse.0",
            "decode_head.conv_cat.bn": "classifier.fuse.1",
            "decode_head.conv_seg": "classifier.classify",
        },
        "classifier.classify",
        {**_RULES, "head_variant": "mmseg"},
        _CHOICES,
        look_alikes=_DILATED_HEAD,
    ),
    NetworkTable(
        "DeepLabV3",
        "decode_head.image_pool.1.conv.weight",
        "deeplabv3",
        BACKBONES,
        {
            **_AUXILIARY,
            **{f"decode_head.aspp_modules.{i}.conv": f"classifier.0.convs.{i}.0" for i in range(4)},
            **{f"decode_head.aspp_modules.{i}.bn": f"classifier.0.convs.{i}.1" for i in range(4)},
            "decode_head.image_pool.1.conv": "classifier.0.convs.4.1",
            "decode_head.image_pool.1.bn": "classifier.0.convs.4.2",
            "decode_head.bottleneck.conv": "classifier.0.project.0",
            "decode_head.bottleneck.bn": "classifier.0.project.1",
            "decode_head.conv_seg": "classifier.1",
        },
        "classifier.1",
        {**_RULES, "head_variant": "mmseg"},
        {**_CHOICES, "atrous_rates": None},
    ),
    NetworkTable(
        "PSPNet",
        "decode_head.psp_modules.0.1.conv.weight",
        "pspnet",
        BACKBONES,
        {
            **_AUXILIARY,
            "decode_head.psp_modules.{}.1.conv": "classifier.pyramid.{}.1",
            "decode_head.psp_modules.{}.1.bn": "classifier.pyramid.{}.2",
            "decode_head.bottleneck.conv": "classifier.fuse.0",
            "decode_head.bottleneck.bn": "classifier.fuse.1",
            "decode_head.conv_seg": "classifier.classify",
        },
        "classifier.classify",
        {**_RULES, "head_variant": "mmseg"},
        _CHOICES,
        look_alikes={"": "a PSPHead with pool_scales other than (1, 2, 3, 6)"},
    ),
    NetworkTable(
        "FCN of one convolution",
        "decode_head.convs.0.conv.weight",
        "fcn",
        BACKBONES,
        {
            **_AUXILIARY,
            "decode_head.convs.0.conv": "classifier.0",
            "decode_head.convs.0.bn": "classifier.1",
            "decode_head.conv_seg": "classifier.4",
        },
        "classifier.4",
        _RULES,
        _CHOICES,
        look_alikes=_DILATED_HEAD,
    ),
)
