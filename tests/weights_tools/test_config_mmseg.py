"""Read configs from checkpoints of mmsegmentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import segnets
from segnets import Preprocessing
from tests.typed import options_of
from tests.weights_tools.mmseg_text import OPTIONS, TEXT, changed, of_mmseg
from weights_tools.reader.values import Foreign, Global, Value
from weights_tools.recognise.config import read_source_config

IMAGENET = {"mean": Preprocessing.mean, "std": Preprocessing.std, "channel_order": "RGB"}


def test_mmseg() -> None:
    found = of_mmseg(dataset_meta={"classes": ("road", "car"), "palette": [[1, 2, 3], [4, 5, 6]]})
    assert found.options == OPTIONS
    assert (found.project, found.refused, found.notes) == ("mmseg", None, ())
    assert found.source == "the config in the checkpoint (meta.cfg)"
    assert (found.classes, found.palette) == (("road", "car"), ((1, 2, 3), (4, 5, 6)))
    assert found.preprocessing == IMAGENET


def test_mmseg_of_release_0() -> None:
    text = TEXT[: TEXT.index("    data_preprocessor")] + TEXT[TEXT.index("    decode_head") :]
    text += (
        "img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0], to_rgb=True)\n"
        "test_pipeline = [dict(type='MultiScaleFlipAug', transforms=[dict(type='Normalize', "
        "mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)])]\n"
    )
    meta = {"mmseg_version": "0.30.0", "config": text, "CLASSES": ["a", "b"], "PALETTE": None}
    found = read_source_config({"meta": meta, "state_dict": {}}, ("state_dict",), Path("w.pth"))
    assert found is not None
    assert found.options == OPTIONS
    assert found.classes == ("a", "b")
    one = round(1 / 255, 10)
    # Caffe: channels in the order they are read, minus the mean.
    assert found.preprocessing == {
        "mean": (0.406, 0.456, 0.485),
        "std": (one, one, one),
        "channel_order": "BGR",
        "resize": "none",
        "size": None,  # the pipeline has no step that resizes
    }


def test_mmseg_without_a_config() -> None:
    top = {"meta": {"mmseg_version": "0.6", "CLASSES": ("a",)}, "state_dict": {}}
    found = read_source_config(top, ("state_dict",), Path())
    assert found is not None
    assert (found.project, found.options, found.classes) == ("mmseg", {}, ("a",))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("style='pytorch'", "style='caffe'")], {"stride_in_1x1": True}),
        ([("contract_dilation=True", "contract_dilation=False")], {"first_block_dilation": "same"}),
        ([("contract_dilation=True,", "")], {"first_block_dilation": "same"}),
        ([("align_corners=False", "align_corners=True")], {"align_corners": True}),
        ([("requires_grad=True, type", "eps=1e-3, type")], {"norm_eps": 1e-3, "head_norm_eps": 1e-3}),
        ([("dropout_ratio=0.1", "dropout_ratio=0")], {"head_dropout": 0.0}),
        ([("            12,\n            24,\n            36,", "6, 12, 18")], {"atrous_rates": [6, 12, 18]}),
        (
            [("type='SyncBN'", "type='GN', num_groups=32"), ("type='ResNetV1c'", "type='ResNet'")],
            {"norm_layer": "group", "head_norm_layer": "group"},
        ),
        ([("type='ASPPHead'", "type='mmseg.models.decode_heads.aspp_head.ASPPHead'")], {}),
        (
            [("            2,\n            1,\n            1,", "2, 2, 1"), ("            2,\n            4,", "1, 2")],
            {"output_stride": 16},
        ),
        # multi_grid replaces the fourth dilation.
        (
            [
                ("            2,\n            1,\n            1,", "2, 2, 1"),
                ("            2,\n            4,", "1, 9"),
                ("depth=50", "depth=50, multi_grid=(1, 2, 4)"),
            ],
            {"output_stride": 16, "multi_grid": [1, 2, 4], "first_block_dilation": ...},
        ),
        (
            [("depth=50", "depth=18, multi_grid=(2, 4)")],
            {"multi_grid": [2, 4], "basic_block_dilation": "first", "stride_in_1x1": ...},
        ),
        ([("depth=50", "depth=18")], {"basic_block_dilation": "first", "stride_in_1x1": ...}),
        (
            [
                ("        strides=(\n            1,\n            2,\n            1,\n            1,\n        ),\n", ""),
                (
                    "        dilations=(\n            1,\n            1,\n            2,\n            4,\n        ),\n",
                    "",
                ),
            ],
            {"output_stride": 32, "first_block_dilation": ...},
        ),
    ],
    ids=str,
)
def test_options_from_mmseg_configs(changes: list[tuple[str, str]], expected: dict[str, Any]) -> None:
    found = of_mmseg(changed(*changes))
    assert found.refused is None
    assert found.options == {name: value for name, value in {**OPTIONS, **expected}.items() if value is not ...}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([("type='ASPPHead'", "type='FCNHead', dilation=6")], "its decode_head has dilation=6"),
        ([("type='ASPPHead'", "type='FCNHead', kernel_size=1")], "its decode_head has kernel_size=1"),
        ([("num_convs=1", "num_convs=1, dilation=2")], "its auxiliary_head has dilation=2"),
        ([("type='ASPPHead'", "type='PSPHead', pool_scales=(1, 2)")], r"its decode_head has pool_scales=\(1, 2\)"),
        ([("type='ASPPHead'", "type='MyHead'")], "its decode_head is 'MyHead'"),
        ([("type='FCNHead'", "type='MyHead'")], "its auxiliary_head is 'MyHead'"),
        ([("type='ResNetV1c'", "type='mmpretrain.ResNet'")], "its backbone is 'mmpretrain.ResNet'"),
        ([("type='EncoderDecoder'", "type='MyDecoder'")], "its model is 'MyDecoder'"),
        ([("test_cfg", "neck=dict(type='FPN'), test_cfg")], "its model has a neck"),
        ([("depth=50", "depth=50, dcn=dict(type='DCN')")], "its backbone has dcn"),
        ([("depth=50", "depth=50, num_stages=3")], "its backbone has num_stages=3"),
        ([("depth=50", "depth=50, multi_grid=(1, 2)")], r"its backbone has multi_grid=\(1, 2\) for 3 blocks"),
        ([("depth=50", "depth=50, conv_cfg=dict(type='ConvWS')")], "its backbone uses unsupported convolutions"),
        ([("            2,\n            4,", "1, 1")], r"strides=\(1, 2, 1, 1\) with dilations=\(1, 1, 1, 1\)"),
        ([("            12,", "            1,")], r"its decode_head has dilations=\(1, 1, 24, 36\)"),
        ([("sampler", "act_cfg=dict(type='GELU'), sampler")], "its decode_head has an activation other than ReLU"),
        ([("sampler", "input_transform='resize_concat', sampler")], "its decode_head has an input_transform"),
        ([("in_index=3", "in_index=2")], "its decode_head reads a different backbone stage"),
        ([("type='SyncBN'", "type='IN'")], "its backbone has the norm 'IN'"),
        ([("type='SyncBN'", "type='GN', num_groups=32")], "its backbone has the norm 'GN'"),  # of a deep stem
        ([("sampler", "norm_cfg=dict(type='GN', num_groups=32), sampler")],
         "head_norm_layer is batch in its auxiliary_head and group in its decode_head"),
        ([("in_index=2", "norm_cfg=dict(type='GN', num_groups=32), in_index=2"),
          ("num_convs=1", "norm_cfg=dict(type='GN', num_groups=32)")],
         "head_norm_layer is group in its auxiliary_head and batch in its decode_head"),
        ([("in_channels=1024", "align_corners=True"), ("        align_corners=False,\n        channels=256,", "")],
         "align_corners is True in its auxiliary_head and False in its decode_head"),
    ],
    ids=str,
)  # fmt: skip
def test_unsupported_networks_of_mmseg(changes: list[tuple[str, str]], reason: str) -> None:
    assert re.search(reason, of_mmseg(changed(*changes)).refused or "")


def test_absent_auxiliary_head_is_not_checked() -> None:
    top = {"meta": {"cfg": changed(("num_convs=1", "num_convs=1, dilation=2"))}, "state_dict": {"backbone.x": 0}}
    found = read_source_config(top, ("state_dict",), Path("w.pth"))
    assert found is not None
    assert found.refused is None


def test_values_that_need_execution_are_ignored() -> None:
    found = of_mmseg(changed(("contract_dilation=True", "contract_dilation=bool(1)"), ("style='pytorch'", "style=S")))
    assert found.options == {k: v for k, v in OPTIONS.items() if k not in ("first_block_dilation", "stride_in_1x1")}
    assert found.notes == ("ignored backbone style: unreadable", "ignored backbone contract_dilation: unreadable")


def test_norms_that_need_execution_are_ignored() -> None:
    found = of_mmseg(changed(("norm_cfg=dict(requires_grad=True, type='SyncBN')", "norm_cfg=make_norm()")))
    assert not found.options.keys() & {"norm_eps", "head_norm_eps"}
    assert found.refused is None


@pytest.mark.parametrize(("flag", "order"), [("rgb_to_bgr=True", "RGB"), ("bgr_to_rgb=False", "BGR")])
def test_channels(flag: str, order: str) -> None:
    """Images are read as BGR, and both flags swap the channels."""
    found = of_mmseg(changed(("bgr_to_rgb=True", flag)))
    assert found.preprocessing["channel_order"] == order


_TEST = "test_pipeline = [dict(type='LoadImageFromFile'), {}, dict(type='PackSegInputs')]\n"
_FLIPS = "data = dict(test=dict(pipeline=[dict(type='MultiScaleFlipAug', img_scale=(2048, 1024), transforms=[{}])]))\n"
_SHORT = {"resize": "short_side", "interpolation": "bilinear", "antialias": False}


@pytest.mark.parametrize(
    ("pipeline", "step", "stated"),
    [
        (_TEST, "dict(type='Resize', scale=(2048, 512), keep_ratio=True)", {**_SHORT, "size": 512}),
        (_TEST, "dict(type='Resize', scale=(512, 2048), keep_ratio=True)", {**_SHORT, "size": 512}),
        (_TEST, "dict(type='Resize', scale=(640, 480))", {**_SHORT, "resize": "fixed", "size": (480, 640)}),
        (_FLIPS, "dict(type='Resize', keep_ratio=True)", {**_SHORT, "size": 1024}),
        (_TEST, "dict(type='LoadAnnotations')", {"resize": "none", "size": None}),
        (_TEST, "dict(type='ResizeShortestEdge', scale=(2048, 512), max_size=2048)", {}),
        (_TEST, "dict(type='Resize', scale_factor=0.5)", {}),
        ("{}", "", {}),
    ],
)
def test_the_size_of_images_in_tests(pipeline: str, step: str, stated: dict[str, object]) -> None:
    found = of_mmseg(f"{TEXT}{pipeline.format(step)}")
    assert found.preprocessing == {**IMAGENET, **stated}
    said = " ".join(found.notes)
    if stated.get("resize") == "short_side":
        assert "resizes the short side to" in said
    elif "Resize" in step and not stated:
        assert "in a way that segnets does not; set the size with --resize" in said
    else:
        assert said == ""


def test_names_assigned_before_have_their_values() -> None:
    found = of_mmseg(
        changed(("dropout_ratio=0.1", "dropout_ratio=RATIO"), ("crop_size", "RATIO: float = 0.25\ncrop_size"))
    )
    assert found.options["head_dropout"] == 0.25


ARRAY = Global("numpy._core.multiarray", "_reconstruct")
INT64 = Foreign(Global("numpy", "dtype"), ("i8", False, True), (3, "<", None, None, None, -1, -1, 0))
LATIN = Global("_codecs", "encode")


def array(shape: Value, numbers: list[int], fortran: bool = False) -> Foreign:
    data = b"".join(number.to_bytes(8, "little", signed=True) for number in numbers).decode("latin-1")
    return Foreign(ARRAY, (), (1, shape, INT64, fortran, Foreign(LATIN, (data, "latin1"))))


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        (array((2, 3), [1, 2, 3, 4, 5, 255]), ((1, 2, 3), (4, 5, 255))),
        (array((2, 3), [1, 4, 2, 5, 3, 255], fortran=True), ((1, 2, 3), (4, 5, 255))),
        ([array((3,), [1, 2, 3]), (4, 5, 6)], ((1, 2, 3), (4, 5, 6))),
        (array((2, 3), [1, 2, 3, 4, 5, 256]), ()),
        (array((2, 3), [1, 2, 3]), ()),
        (array((1 << 40, 3), [1, 2, 3]), ()),
        (array((-1, 3), [1, 2, 3]), ()),
        (array("no", []), ()),
        ([[1, 2, 3]], ()),
        ([[1, 2], [3, 4]], ()),
        ([[1, 2, 3], [1, 2, True]], ()),
        (Foreign(None, "x"), ()),
    ],
    ids=range(12),
)  # fmt: skip
def test_palette_as_numpy_arrays(palette: Value, expected: Value) -> None:
    assert of_mmseg(dataset_meta={"classes": ["a", "b"], "palette": palette}).palette == expected


@pytest.mark.parametrize("classes", [["a"], ["a", 1], ["a", ""], ["a", "b\x1b"], ["a", "b" * 1000], 7, Foreign(None)])
def test_invalid_class_names(classes: Value) -> None:
    assert of_mmseg(dataset_meta={"classes": classes}).classes == ()


def test_config_of_another_project() -> None:
    found = of_mmseg("model = dict(type='FasterRCNN', backbone=dict(type='ResNet', depth=50))")
    assert (found.project, found.options, found.refused) == (None, {}, None)
    assert found.notes == ("ignored the config: it does not describe a segmentation network of mmsegmentation",)
    assert "_base_" in of_mmseg("_base_ = ['x.py']\n" + TEXT).notes[0]
    assert of_mmseg("default_scope = 'mine'\n" + TEXT).project is None


def test_meta_in_an_outer_dictionary() -> None:
    top = {"checkpoint": {"meta": {"cfg": TEXT}, "state_dict": {}}}
    found = read_source_config(top, ("checkpoint", "state_dict"), Path("w.pth"))
    assert found is not None
    assert found.options == OPTIONS


def test_resolved_options_build_a_network() -> None:
    options: dict[str, Any] = dict(of_mmseg().options)
    model = segnets.create_model("deeplabv3_resnet50", head_variant="mmseg", **options)
    assert options_of(model)["output_stride"] == 8
