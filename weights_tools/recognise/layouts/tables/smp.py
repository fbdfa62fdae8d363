"""Tables of segmentation_models_pytorch.

Source: segmentation_models_pytorch 0.6, decoders/deeplabv3, decoders/pspnet and encoders/. SMP dilates the first
block of a stage like the others and resizes with align_corners=True. Encoders whose names begin with "tu-" or "timm-"
are timm's networks.
"""

from __future__ import annotations

from dataclasses import replace

from segnets.card import JSON
from weights_tools.recognise.layouts.network_table import BackboneTable, NetworkTable
from weights_tools.recognise.layouts.tables._resnet import resnet_keys
from weights_tools.recognise.layouts.tables.timm import mobilenet_backbones

_RULES: dict[str, JSON] = {
    "first_block_dilation": "same",
    "basic_block_dilation": "both",
    "align_corners": True,
}
# timm dilates its networks by its own rule.
_TIMM_RULES: dict[str, JSON] = {"first_block_dilation": "previous"}
_RATES: JSON = [12, 24, 36]  # the default at every output stride
# Classifies the whole image, in addition to the mask.
_UNUSED = ("classification_head",)

_LOOK_ALIKES = {
    "": "a network whose upsampling differs from its output stride, or with an activation after the logits",
    **{f"resnet{n}": f"an encoder with anti-aliased downsampling (tu-resnetblur{n}, tu-resnetaa{n})" for n in (18, 50)},
    **{
        f"mobilenet_v3_{size}": f"the encoder tu-tf_mobilenetv3_{size}_100 (a different eps, TensorFlow's padding)"
        for size in ("large", "small")
    },
}

BACKBONES = (
    BackboneTable("encoder.conv1.weight", resnet_keys("encoder.")),
    *(
        # timm's average pooling in shortcuts is also dilated. Its networks drop unused stages.
        BackboneTable(
            f"encoder.model.{stem}.weight",
            resnet_keys("encoder.model."),
            _TIMM_RULES,
            average_downsample="average_dilated",
            min_stages=2,
        )
        for stem in ("conv1", "conv1.0")
    ),
    *mobilenet_backbones("encoder.model."),
)

_DEEPLABV3 = NetworkTable(
    "DeepLabV3",
    "decoder.aspp.convs.0.0.weight",
    "deeplabv3",
    BACKBONES,
    {
        "decoder.aspp": "classifier.0",
        "decoder.conv": "classifier.1",
        "decoder.bn": "classifier.2",
        "segmentation_head.0": "classifier.4",
    },
    "classifier.4",
    _RULES,
    {"output_stride": 8, "atrous_rates": _RATES},
    _UNUSED,
    look_alikes=_LOOK_ALIKES,
)

SMP = (
    _DEEPLABV3,
    replace(
        _DEEPLABV3,
        name="DeepLabV3 from before 0.5",
        signature="decoder.0.convs.0.0.weight",
        keys={**{f"decoder.{i}": f"classifier.{i}" for i in range(3)}, "segmentation_head.0": "classifier.4"},
    ),
    NetworkTable(
        "DeepLabV3+",
        "decoder.aspp.0.convs.0.0.weight",
        "deeplabv3plus",
        BACKBONES,
        {
            "decoder.aspp.0": "classifier.aspp",
            "decoder.aspp.1": "classifier.refine.0",
            "decoder.aspp.2": "classifier.refine.1",
            "decoder.block1": "classifier.project_low",
            "decoder.block2": "classifier.fuse",
            "segmentation_head.0": "classifier.classify",
        },
        "classifier.classify",
        {**_RULES, "head_variant": "smp"},
        {"output_stride": 16, "atrous_rates": _RATES},
        _UNUSED,
        look_alikes=_LOOK_ALIKES,
    ),
    NetworkTable(
        "PSPNet",
        "decoder.psp.blocks.0.pool.1.0.weight",
        "pspnet",
        BACKBONES,
        {
            "decoder.psp.blocks.{}.pool.1.0": "classifier.pyramid.{}.1",
            "decoder.psp.blocks.{}.pool.1.1": "classifier.pyramid.{}.2",
            "decoder.conv": "classifier.fuse",
            "segmentation_head.0": "classifier.classify",
        },
        "classifier.classify",
        # With all stages; fewer give a smaller output stride.
        {"align_corners": True, "head_variant": "smp", "output_stride": 32},
        unused=_UNUSED,
        look_alikes=_LOOK_ALIKES,
    ),
)
