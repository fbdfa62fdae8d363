"""Networks of other projects on ResNets, as tables: segmentation_models_pytorch, mmsegmentation, VainF.

Each is compared with the project's own network, every tensor random (tests/peers/test_convert.py). Sources:
segmentation_models_pytorch 0.6, decoders/; mmsegmentation 1.2.2, models/decode_heads/ and models/backbones/resnet.py;
VainF/DeepLabV3Plus-Pytorch, network/.
"""

from __future__ import annotations

from segnets.card import JSON
from weights_tools.layouts.renaming import Origin, Table

# SMP dilates the first block of a stage like the others, and resizes with aligned corners.
_SMP: dict[str, JSON] = {"first_block_dilation": "same", "align_corners": True}
_SMP_ENCODER: Table = {r"encoder\.": "backbone."}
_SMP_RATES: JSON = [12, 24, 36]  # at every output stride, where they are not chosen

SMP = (
    Origin(
        "DeepLabV3",
        "decoder.aspp.convs.0.0.weight",
        "deeplabv3",
        {
            **_SMP_ENCODER,
            r"decoder\.aspp\.": "classifier.0.",
            r"decoder\.conv\.": "classifier.1.",
            r"decoder\.bn\.": "classifier.2.",
            r"segmentation_head\.0\.": "classifier.4.",
        },
        "classifier.4",
        _SMP,
        {"output_stride": 8, "atrous_rates": _SMP_RATES},
    ),
    Origin(
        "DeepLabV3 from before 0.5",
        "decoder.0.convs.0.0.weight",
        "deeplabv3",
        {**_SMP_ENCODER, r"decoder\.": "classifier.", r"segmentation_head\.0\.": "classifier.4."},
        "classifier.4",
        _SMP,
        {"output_stride": 8, "atrous_rates": _SMP_RATES},
    ),
    Origin(
        "DeepLabV3+",
        "decoder.aspp.0.convs.0.0.weight",
        "deeplabv3plus",
        {
            **_SMP_ENCODER,
            r"decoder\.aspp\.0\.": "classifier.aspp.",
            r"decoder\.aspp\.1\.": "classifier.refine.0.",
            r"decoder\.aspp\.2\.": "classifier.refine.1.",
            r"decoder\.block1\.": "classifier.project_low.",
            r"decoder\.block2\.": "classifier.fuse.",
            r"segmentation_head\.0\.": "classifier.classify.",
        },
        "classifier.classify",
        {**_SMP, "head_variant": "smp"},
        {"output_stride": 16, "atrous_rates": _SMP_RATES},
    ),
    Origin(
        "PSPNet",
        "decoder.psp.blocks.0.pool.1.0.weight",
        "pspnet",
        {
            **_SMP_ENCODER,
            r"decoder\.psp\.blocks\.(\d)\.pool\.1\.0\.": r"classifier.pyramid.\1.1.",
            r"decoder\.psp\.blocks\.(\d)\.pool\.1\.1\.": r"classifier.pyramid.\1.2.",
            r"decoder\.conv\.": "classifier.fuse.",
            r"segmentation_head\.0\.": "classifier.classify.",
        },
        "classifier.classify",
        {"align_corners": True, "head_variant": "smp", "output_stride": 32},  # of all its stages; fewer shrink less
    ),
)

# mmsegmentation: the configurations that it publishes have contract_dilation=True.
_MMSEG_BACKBONE: Table = {
    r"backbone\.stem\.7\.": "backbone.bn1.",
    r"backbone\.stem\.": "backbone.conv1.",
    r"backbone\.": "backbone.",
    r"auxiliary_head\.convs\.0\.conv\.": "aux_classifier.0.",
    r"auxiliary_head\.convs\.0\.bn\.": "aux_classifier.1.",
    r"auxiliary_head\.conv_seg\.": "aux_classifier.4.",
}
_MMSEG_OPEN: dict[str, JSON] = {
    "output_stride": 8,
    "first_block_dilation": "previous",
    "multi_grid": None,
    "align_corners": False,
    "norm_eps": 1e-5,
    "head_norm_eps": 1e-5,
    "stride_in_1x1": False,
}

MMSEG = (
    Origin(
        "FCN of two convolutions",
        "decode_head.conv_cat.conv.weight",
        "fcn",
        {
            **_MMSEG_BACKBONE,
            r"decode_head\.convs\.(\d)\.conv\.": r"classifier.convs.\1.0.",
            r"decode_head\.convs\.(\d)\.bn\.": r"classifier.convs.\1.1.",
            r"decode_head\.conv_cat\.conv\.": "classifier.fuse.0.",
            r"decode_head\.conv_cat\.bn\.": "classifier.fuse.1.",
            r"decode_head\.conv_seg\.": "classifier.classify.",
        },
        "classifier.classify",
        {"head_variant": "mmseg"},
        _MMSEG_OPEN,
    ),
    Origin(
        "DeepLabV3",
        "decode_head.image_pool.1.conv.weight",
        "deeplabv3",
        {
            **_MMSEG_BACKBONE,
            r"decode_head\.aspp_modules\.([0-3])\.conv\.": r"classifier.0.convs.\1.0.",
            r"decode_head\.aspp_modules\.([0-3])\.bn\.": r"classifier.0.convs.\1.1.",
            r"decode_head\.image_pool\.1\.conv\.": "classifier.0.convs.4.1.",
            r"decode_head\.image_pool\.1\.bn\.": "classifier.0.convs.4.2.",
            r"decode_head\.bottleneck\.conv\.": "classifier.0.project.0.",
            r"decode_head\.bottleneck\.bn\.": "classifier.0.project.1.",
            r"decode_head\.conv_seg\.": "classifier.1.",
        },
        "classifier.1",
        {"head_variant": "mmseg"},
        {**_MMSEG_OPEN, "atrous_rates": None},
    ),
    Origin(
        "PSPNet",
        "decode_head.psp_modules.0.1.conv.weight",
        "pspnet",
        {
            **_MMSEG_BACKBONE,
            r"decode_head\.psp_modules\.(\d)\.1\.conv\.": r"classifier.pyramid.\1.1.",
            r"decode_head\.psp_modules\.(\d)\.1\.bn\.": r"classifier.pyramid.\1.2.",
            r"decode_head\.bottleneck\.conv\.": "classifier.fuse.0.",
            r"decode_head\.bottleneck\.bn\.": "classifier.fuse.1.",
            r"decode_head\.conv_seg\.": "classifier.classify.",
        },
        "classifier.classify",
        {"head_variant": "mmseg"},
        _MMSEG_OPEN,
    ),
    Origin(
        "FCN of one convolution",
        "decode_head.convs.0.conv.weight",
        "fcn",
        {
            **_MMSEG_BACKBONE,
            r"decode_head\.convs\.0\.conv\.": "classifier.0.",
            r"decode_head\.convs\.0\.bn\.": "classifier.1.",
            r"decode_head\.conv_seg\.": "classifier.4.",
        },
        "classifier.4",
        {},
        _MMSEG_OPEN,
    ),
)

# VainF's command line has output stride 16 by default; the rates follow it there as here.
VAINF = (
    Origin(
        "DeepLabV3",
        "classifier.classifier.0.convs.0.0.weight",
        "deeplabv3",
        {r"backbone\.": "backbone.", r"classifier\.classifier\.": "classifier."},
        "classifier.4",
        {},
        {"output_stride": 16},
    ),
    Origin(
        "DeepLabV3+",
        "classifier.aspp.convs.0.0.weight",
        "deeplabv3plus",
        {
            r"backbone\.": "backbone.",
            r"classifier\.project\.": "classifier.project_low.",
            r"classifier\.aspp\.": "classifier.aspp.",
            r"classifier\.classifier\.0\.": "classifier.fuse.0.",
            r"classifier\.classifier\.1\.": "classifier.fuse.1.",
            r"classifier\.classifier\.3\.": "classifier.classify.",
        },
        "classifier.classify",
        {"head_variant": "vainf"},
        {"output_stride": 16},
    ),
)
