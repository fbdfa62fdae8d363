"""Text of a config as mmengine writes it, and the facts read from it."""

from __future__ import annotations

from pathlib import Path

from segnets.options import check_values
from weights_tools.reader.values import Value
from weights_tools.recognise.config import SourceConfig, read_source_config

# As mmengine writes it: sorted keys, tuples and lists over many lines.
TEXT = """
crop_size = (
    512,
    1024,
)
norm_cfg = dict(requires_grad=True, type='SyncBN')
model = dict(
    auxiliary_head=dict(
        align_corners=False,
        channels=256,
        concat_input=False,
        in_channels=1024,
        in_index=2,
        norm_cfg=dict(requires_grad=True, type='SyncBN'),
        num_classes=2,
        num_convs=1,
        type='FCNHead'),
    backbone=dict(
        contract_dilation=True,
        depth=50,
        dilations=(
            1,
            1,
            2,
            4,
        ),
        norm_cfg=dict(requires_grad=True, type='SyncBN'),
        out_indices=(
            0,
            1,
            2,
            3,
        ),
        strides=(
            1,
            2,
            1,
            1,
        ),
        style='pytorch',
        type='ResNetV1c'),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type='SegDataPreProcessor'),
    decode_head=dict(
        align_corners=False,
        channels=512,
        dilations=(
            1,
            12,
            24,
            36,
        ),
        dropout_ratio=0.1,
        in_channels=2048,
        in_index=3,
        norm_cfg=dict(requires_grad=True, type='SyncBN'),
        num_classes=2,
        sampler=dict(min_kept=100000, type='OHEMPixelSampler'),
        type='ASPPHead'),
    pretrained='open-mmlab://resnet50_v1c',
    test_cfg=dict(mode='whole'),
    type='EncoderDecoder')
optimizer = dict(lr=-0.01, type='SGD')
"""
OPTIONS = {
    "output_stride": 8,
    "first_block_dilation": "previous",
    "multi_grid": None,
    "stride_in_1x1": False,
    "norm_eps": 1e-5,
    "head_norm_eps": 1e-5,
    "head_dropout": 0.1,
    "align_corners": False,
    "atrous_rates": [12, 24, 36],
}


def of_mmseg(text: Value = TEXT, **meta: Value) -> SourceConfig:
    """Read a checkpoint of mmengine that has this config and an auxiliary head."""
    top = {"meta": {"cfg": text, **meta}, "state_dict": {"auxiliary_head.conv_seg.weight": 0}}
    found = read_source_config(top, ("state_dict",), Path("w.pth"))
    assert found is not None
    assert all(isinstance(note, str) for note in found.notes)
    check_values({name: value for name, value in found.options.items() if value is not None})
    return found


def changed(*changes: tuple[str, str]) -> str:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text
