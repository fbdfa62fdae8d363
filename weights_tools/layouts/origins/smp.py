"""segmentation_models_pytorch 0.6: decoders/deeplabv3, decoders/pspnet, encoders/.

It dilates the first block of a stage like the others, and resizes with aligned corners. Encoders with "tu-" or "timm-"
before their name are timm's networks.
"""

from __future__ import annotations

from segnets.card import JSON
from weights_tools.layouts.origins.timm import mobilenet_bodies, resnet_table
from weights_tools.layouts.renaming import Body, Origin

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

BODIES = (
    Body("encoder.conv1.weight", resnet_table("encoder.")),
    *(
        # timm's average pooling in shortcuts dilates too.
        Body(f"encoder.model.{stem}.weight", resnet_table("encoder.model."), _TIMM_RULES, average="average_dilated")
        for stem in ("conv1", "conv1.0")
    ),
    *mobilenet_bodies("encoder.model."),
)

SMP = (
    Origin(
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
    ),
    Origin(
        "DeepLabV3 from before 0.5",
        "decoder.0.convs.0.0.weight",
        "deeplabv3",
        BODIES,
        {**{f"decoder.{i}": f"classifier.{i}" for i in range(3)}, "segmentation_head.0": "classifier.4"},
        "classifier.4",
        _RULES,
        {"output_stride": 8, "atrous_rates": _RATES},
        _UNUSED,
    ),
    Origin(
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
    ),
    Origin(
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
    ),
)
