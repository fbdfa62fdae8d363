"""segmentation_models_pytorch 0.6: decoders/deeplabv3, decoders/pspnet, encoders/.

It dilates the first block of a stage like the others, and resizes with aligned corners. Encoders with "tu-" or "timm-"
before their name are timm's networks.
"""

from __future__ import annotations

from dataclasses import replace

from segnets.card import JSON
from weights_tools.recognise.layouts.key_map import BackboneTable, NetworkTable
from weights_tools.recognise.layouts.tables.timm import mobilenet_bodies, resnet_table

_RULES: dict[str, JSON] = {
    "first_block_dilation": "same",
    "basic_block_dilation": "both",
    "align_corners": True,
}
# timm makes its networks dilated itself, by its own rule.
_TIMM_RULES: dict[str, JSON] = {"first_block_dilation": "previous"}
_RATES: JSON = [12, 24, 36]  # at every output stride, where they are not chosen
# Labels for the whole image, beside the mask.
_UNUSED = ("classification_head",)

# Of the same names and shapes.
_KIN = {
    "": "a network with another upsampling than its output stride, or with an activation behind its scores",
    **{f"resnet{n}": f"an encoder that smooths before it shrinks (tu-resnetblur{n}, tu-resnetaa{n})" for n in (18, 50)},
    **{
        f"mobilenet_v3_{size}": f"the encoder tu-tf_mobilenetv3_{size}_100 (another eps, padding as TensorFlow's)"
        for size in ("large", "small")
    },
}

BODIES = (
    BackboneTable("encoder.conv1.weight", resnet_table("encoder.")),
    *(
        # timm's average pooling in shortcuts dilates too, and its networks lose the stages that are not used.
        BackboneTable(
            f"encoder.model.{stem}.weight",
            resnet_table("encoder.model."),
            _TIMM_RULES,
            average="average_dilated",
            stages=2,
        )
        for stem in ("conv1", "conv1.0")
    ),
    *mobilenet_bodies("encoder.model."),
)

_DEEPLABV3 = NetworkTable(
    "DeepLabV3",
    "decoder.aspp.convs.0.0.weight",
    "deeplabv3",
    BODIES,
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
    look_alikes=_KIN,
)

SMP = (
    _DEEPLABV3,
    replace(
        _DEEPLABV3,
        name="DeepLabV3 from before 0.5",
        signature="decoder.0.convs.0.0.weight",
        table={**{f"decoder.{i}": f"classifier.{i}" for i in range(3)}, "segmentation_head.0": "classifier.4"},
    ),
    NetworkTable(
        "DeepLabV3+",
        "decoder.aspp.0.convs.0.0.weight",
        "deeplabv3plus",
        BODIES,
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
        look_alikes=_KIN,
    ),
    NetworkTable(
        "PSPNet",
        "decoder.psp.blocks.0.pool.1.0.weight",
        "pspnet",
        BODIES,
        {
            "decoder.psp.blocks.{}.pool.1.0": "classifier.pyramid.{}.1",
            "decoder.psp.blocks.{}.pool.1.1": "classifier.pyramid.{}.2",
            "decoder.conv": "classifier.fuse",
            "segmentation_head.0": "classifier.classify",
        },
        "classifier.classify",
        # 32 of all its stages; fewer shrink less.
        {"align_corners": True, "head_variant": "smp", "output_stride": 32},
        unused=_UNUSED,
        look_alikes=_KIN,
    ),
)
