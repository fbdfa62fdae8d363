"""The table of options, and what the options of a network do."""

from __future__ import annotations

import inspect
import itertools
import typing
import warnings
from typing import Any, Optional

import numpy as np
import pytest
import torch
from torch import nn

import segnets
from benchmarks.options import read_table, table
from segnets import backbones
from segnets.options import ALL_OPTIONS, DEFAULTS, NAMES, OPTIONS, TRAINING, Options
from segnets.registry import HEADS, MODELS, _WithoutInitialValues, build
from segnets.weights.pretrained import with_weights
from tests.typed import config_of, options_of, part


def on_meta(name: str, **options: Any) -> segnets.SegmentationModel:
    with torch.device("meta"), _WithoutInitialValues():
        return segnets.create_model(name, **options)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def convolutions(stage: nn.Sequential) -> list[list[tuple[int, int]]]:
    """(stride, dilation) of the convolutions that see more than one pixel or have a stride, block by block."""
    return [
        [
            (m.stride[0], m.dilation[0])
            for m in (part(block, "conv1"), part(block, "conv2"))
            if m.kernel_size[0] > 1 or m.stride[0] > 1
        ]
        for block in stage
    ]


# name, options -> (stride, dilation) of the convolutions in layer3 and layer4
GEOMETRIES: list[tuple[str, dict[str, Any], list[Any], list[Any]]] = [
    ("resnet50", {}, [[(1, 1)], *[[(1, 2)]] * 5], [[(1, 2)], [(1, 4)], [(1, 4)]]),
    ("resnet50", {"output_stride": 16}, [[(2, 1)], *[[(1, 1)]] * 5], [[(1, 1)], [(1, 2)], [(1, 2)]]),
    ("resnet50", {"output_stride": 32}, [[(2, 1)], *[[(1, 1)]] * 5], [[(2, 1)], [(1, 1)], [(1, 1)]]),
    ("resnet50", {"first_block_dilation": "same"}, [[(1, 2)]] * 6, [[(1, 4)]] * 3),
    (
        "resnet50",
        {"output_stride": 16, "multi_grid": (1, 2, 4)},
        [[(2, 1)], *[[(1, 1)]] * 5],
        [[(1, 1)], [(1, 2)], [(1, 4)]],
    ),
    (
        "resnet50",
        {"multi_grid": [4, 8, 16], "first_block_dilation": "same"},
        [[(1, 2)]] * 6,
        [[(1, 4)], [(1, 8)], [(1, 16)]],
    ),
    (
        "resnet50",
        {"output_stride": 16, "stride_in_1x1": True},
        [[(2, 1), (1, 1)], *[[(1, 1)]] * 5],
        [[(1, 1)], [(1, 2)], [(1, 2)]],
    ),
    # The three conventions for BasicBlocks: timm's, SMP's, mmsegmentation's.
    ("resnet18", {}, [[(1, 1), (1, 2)], [(1, 2)] * 2], [[(1, 2), (1, 4)], [(1, 4)] * 2]),
    ("resnet18", {"first_block_dilation": "same"}, [[(1, 2)] * 2] * 2, [[(1, 4)] * 2] * 2),
    (
        "resnet18",
        {"basic_block_dilation": "first"},
        [[(1, 1), (1, 1)], [(1, 2), (1, 1)]],
        [[(1, 2), (1, 1)], [(1, 4), (1, 1)]],
    ),
    (
        "resnet18",
        {"output_stride": 32, "multi_grid": (1, 2), "basic_block_dilation": "first"},
        [[(2, 1), (1, 1)], [(1, 1), (1, 1)]],
        [[(2, 1), (1, 1)], [(1, 2), (1, 1)]],
    ),
]


@pytest.mark.parametrize(("backbone", "options", "third", "fourth"), GEOMETRIES, ids=str)
def test_strides_and_dilations_of_resnets(
    backbone: str, options: dict[str, Any], third: list[Any], fourth: list[Any]
) -> None:
    model = on_meta(f"fcn_{backbone}", **options)
    assert convolutions(part(model.backbone, "layer3")) == third
    assert convolutions(part(model.backbone, "layer4")) == fourth


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"output_stride": 32}, [(2, 1), (1, 1), (2, 1), (1, 1)]),
        ({}, [(2, 1), (1, 1), (1, 2), (1, 2)]),  # torchvision's
        ({"first_block_dilation": "previous"}, [(2, 1), (1, 1), (1, 1), (1, 2)]),  # timm's
        ({"output_stride": 8}, [(1, 2), (1, 2), (1, 4), (1, 4)]),
        ({"output_stride": 8, "first_block_dilation": "previous"}, [(1, 1), (1, 2), (1, 2), (1, 4)]),
    ],
    ids=str,
)
def test_strides_and_dilations_of_mobilenet(options: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    """The first two blocks of the third and of the fourth stage."""
    backbone = on_meta("fcn_mobilenet_v3_large", **options).backbone
    depthwise = [
        next(m for m in part(backbone, i).modules() if getattr(m, "groups", 1) > 1) for i in ("7", "8", "13", "14")
    ]
    assert [(conv.stride[0], conv.dilation[0]) for conv in depthwise] == expected


def test_atrous_rates_follow_the_output_stride_unless_given() -> None:
    def rates(name: str, **options: Any) -> list[int]:
        model = on_meta(name, **options)
        aspp = next(m for m in model.modules() if isinstance(m, segnets.layers.ASPP))
        built = [part(branch, "0").dilation[0] for branch in list(aspp.convs)[1:-1]]
        assert built == options_of(model)["atrous_rates"]
        return built

    assert rates("deeplabv3_resnet50") == [12, 24, 36]
    assert rates("deeplabv3_resnet50", output_stride=16) == [6, 12, 18]
    assert rates("deeplabv3_resnet50", output_stride=32) == [3, 6, 9]
    assert rates("deeplabv3_resnet50", output_stride=16, atrous_rates=(12, 24, 36)) == [12, 24, 36]
    assert rates("deeplabv3_resnet50", atrous_rates=(2,)) == [2]
    assert rates("deeplabv3_mobilenet_v3_small") == [6, 12, 18]
    # torchvision's network, and what it has at other strides.
    assert rates("deeplabv3_mobilenet_v3_large") == [12, 24, 36]
    assert rates("deeplabv3_mobilenet_v3_large", output_stride=16) == [12, 24, 36]
    assert rates("deeplabv3_mobilenet_v3_large", output_stride=32) == [3, 6, 9]
    assert rates("deeplabv3_mobilenet_v3_large", head_variant="mmseg") == [6, 12, 18]


# Where an option means something: (network, options) that take it, with a value that is not the default.
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "num_classes": ("fcn_resnet50", {"num_classes": 2}),
    "aux_loss": ("fcn_resnet50", {"aux_loss": True}),
    "in_channels": ("fcn_mobilenet_v3_small", {"in_channels": 1}),
    "output_stride": ("lraspp_mobilenet_v3_small", {"output_stride": 8}),
    "first_block_dilation": ("fcn_resnet50", {"first_block_dilation": "same"}),
    "basic_block_dilation": ("fcn_resnet18", {"basic_block_dilation": "first"}),
    "multi_grid": ("fcn_resnet50", {"multi_grid": [1, 2, 4]}),
    "stem": ("fcn_resnet50", {"stem": "deep"}),
    "downsample": ("fcn_resnet50", {"downsample": "average"}),
    "stride_in_1x1": ("fcn_resnet50", {"stride_in_1x1": True}),
    "backbone_stages": ("pspnet_resnet34", {"backbone_stages": 2}),
    "norm_layer": ("fcn_resnet18", {"norm_layer": "group"}),
    "norm_eps": ("fcn_resnet18", {"norm_eps": 1e-3}),
    "head_variant": ("fcn_resnet18", {"head_variant": "mmseg"}),
    "head_channels": ("pspnet_resnet18", {"head_channels": 64}),
    "head_dropout": ("pspnet_resnet18", {"head_dropout": 0.0}),
    "atrous_rates": ("deeplabv3_resnet18", {"atrous_rates": [6, 12]}),
    "aspp_separable": ("deeplabv3_resnet18", {"aspp_separable": True}),
    "pool_norm": ("deeplabv3plus_resnet18", {"pool_norm": False}),
    "head_norm_layer": ("deeplabv3_resnet18", {"head_norm_layer": "group"}),
    "head_norm_eps": ("deeplabv3_resnet18", {"head_norm_eps": 1e-3}),
    "aspp_norm_eps": ("deeplabv3plus_resnet18", {"aspp_norm_eps": 1e-3}),
    "align_corners": ("deeplabv3_resnet18", {"align_corners": True}),
}


def test_every_option_is_here() -> None:
    assert CHANGES.keys() | set(TRAINING) == set(NAMES)


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_is_recorded_and_builds_the_same_network_again(option: str) -> None:
    name, options = CHANGES[option]
    model = on_meta(name, **options)
    plain = on_meta(name)
    assert options_of(model)[option] == options[option] != options_of(plain).get(option)
    with torch.device("meta"):
        again = build(name, dict(config_of(model).options))
    assert again.config == model.config
    assert str(again) == str(model)
    assert [(k, t.shape) for k, t in again.state_dict().items()] == [
        (k, t.shape) for k, t in model.state_dict().items()
    ]


@pytest.mark.parametrize("option", [option for option in CHANGES if option not in ("num_classes", "aux_loss")])
def test_none_is_the_networks_own_default(option: str) -> None:
    name, _ = CHANGES[option]
    assert on_meta(name, **{option: None}).config == on_meta(name).config


def test_the_types_in_the_table_are_those_of_the_builders_arguments() -> None:
    arguments = typing.get_type_hints(Options)
    assert tuple(arguments) == NAMES
    for option in OPTIONS:
        assert arguments[option.name] == Optional[option.type], option.name  # noqa: UP045
    assert len({option.name for option in ALL_OPTIONS}) == len(ALL_OPTIONS)


def test_the_rows_of_the_table_are_complete() -> None:
    for option in ALL_OPTIONS:
        assert option.description[0].isupper(), option.name
        assert not option.description.endswith("."), option.name
        assert (option.default is None) == bool(option.default_note), option.name
        assert option.default is None or option.check(option.default), option.name
        assert all(map(option.check, option.candidates)), option.name
        assert option.is_hidden or not option.candidates, option.name
    hidden = [option for option in ALL_OPTIONS if option.is_hidden]
    assert len({option.search_rank for option in hidden}) == len(hidden)


def test_the_defaults_in_the_table_are_those_of_every_network() -> None:
    for name, builder in MODELS.items():
        for option, value in builder.applicable({}).items():
            assert DEFAULTS.get(option, value) == value, (name, option)


def test_the_page_has_the_table_of_options() -> None:
    assert read_table() == table(), "python -m benchmarks.options --write"


def test_visible_options_change_the_tensors_and_hidden_options_do_not() -> None:
    """What "visible" says in the table. Options that are visible in part are tested below."""
    for option in OPTIONS:
        if option.name not in CHANGES or option.visible == "partly":
            continue
        name, options = CHANGES[option.name]
        if option.name == "atrous_rates":  # their number shows
            options = {"atrous_rates": [6, 12, 18]}
        same = shapes(on_meta(name, **options)) == shapes(on_meta(name))
        assert same == (option.visible == "no"), option.name


def test_head_variants_are_visible() -> None:
    for head in HEADS:
        name = f"{head.name}_resnet50"
        alike = {"head_channels": 64, "pool_norm": True, "aspp_separable": True}
        alike = {option: value for option, value in alike.items() if option in MODELS[name].resolve({})}
        variants = [shapes(on_meta(name, head_variant=variant, **alike)) for variant in head.variants]
        assert all(one != other for one, other in itertools.combinations(variants, 2)), head.name


def test_options_that_are_visible_in_part() -> None:
    def state(**options: Any) -> object:
        return shapes(on_meta("fcn_resnet18", **options))

    assert state(downsample="average") == state(downsample="average_dilated") != state(downsample="conv")
    for option in ("norm_layer", "head_norm_layer"):
        assert state(**{option: "batch"}) == state(**{option: "sync"}) != state(**{option: "group"})


def test_builders_show_the_options_that_they_have() -> None:
    for name, builder in MODELS.items():
        shown = set(inspect.signature(with_weights(builder)).parameters)
        assert builder.resolve({}).keys() | set(TRAINING) <= shown - {"weights", "weights_backbone", "progress"}, name
        assert ("multi_grid" in shown) == ("resne" in name), "it applies where it is not in use, too"
        assert ("aspp_norm_eps" in shown) == name.startswith("deeplab")


def test_same_geometry_in_fewer_stages() -> None:
    """SMP's PSPNet reads the second stage; what follows it is not in the network."""
    model = on_meta("pspnet_resnet50", backbone_stages=2, aux_loss=True)
    assert [name for name, _ in model.backbone.named_children()] == [
        "conv1",
        "bn1",
        "relu",
        "maxpool",
        "layer1",
        "layer2",
    ]
    assert options_of(model)["output_stride"] == 8
    assert model(torch.empty(2, 3, 64, 97, device="meta"))["aux"].shape == (2, 21, 64, 97)
    assert options_of(on_meta("pspnet_resnet50", backbone_stages=3, output_stride=8))["first_block_dilation"]


@pytest.mark.parametrize(
    ("options", "backbone_kind", "head_kind"),
    [
        ({}, nn.BatchNorm2d, nn.BatchNorm2d),
        ({"norm_layer": "group"}, nn.GroupNorm, nn.GroupNorm),
        ({"norm_layer": "sync"}, nn.SyncBatchNorm, nn.SyncBatchNorm),
        ({"norm_layer": "frozen"}, segnets.layers.FrozenBatchNorm2d, nn.BatchNorm2d),
        (
            {"norm_layer": "frozen", "head_norm_layer": "frozen"},
            segnets.layers.FrozenBatchNorm2d,
            segnets.layers.FrozenBatchNorm2d,
        ),
        ({"head_norm_layer": "group"}, nn.BatchNorm2d, nn.GroupNorm),
    ],
    ids=str,
)
def test_norms_of_backbone_and_head(options: dict[str, str], backbone_kind: type, head_kind: type) -> None:
    for name in ("pspnet_mobilenet_v3_small", "deeplabv3_resnet18", "lraspp_resnet18", "deeplabv3plus_resnet18"):
        model = on_meta(name, norm_eps=1e-4, head_norm_eps=2e-3, **options)
        kinds = (nn.BatchNorm2d, nn.GroupNorm, nn.SyncBatchNorm, segnets.layers.FrozenBatchNorm2d)
        for half, kind, eps in ((model.backbone, backbone_kind, 1e-4), (model.classifier, head_kind, 2e-3)):
            norms = [module for module in half.modules() if isinstance(module, kinds)]
            assert norms
            assert all(isinstance(norm, kind) and norm.eps == eps for norm in norms)
    mobile = on_meta("fcn_mobilenet_v3_small", norm_layer="sync")
    assert {m.momentum for m in mobile.backbone.modules() if isinstance(m, nn.SyncBatchNorm)} == {0.01}
    assert part(mobile, "classifier.1.momentum") == 0.1


def test_groups_hold_two_channels_or_more() -> None:
    norm = segnets.layers.norm_layer("group")
    groups = {channels: norm(channels).num_groups for channels in (2, 5, 10, 16, 24, 32, 40, 64, 184, 256, 960)}
    assert groups == {2: 1, 5: 1, 10: 1, 16: 8, 24: 4, 32: 16, 40: 4, 64: 32, 184: 4, 256: 32, 960: 32}


def test_values_are_recorded_as_plain_numbers() -> None:
    """A dropout of 0 that is no float can't be scripted, and numpy's numbers are not JSON."""
    model = on_meta("fcn_resnet18", num_classes=np.int64(3), head_dropout=0, norm_eps=np.float32(0.5), output_stride=16)
    options = options_of(model)
    assert [type(options[name]) for name in ("num_classes", "head_dropout", "norm_eps")] == [int, float, float]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's own
        torch.jit.script(model)


def test_every_call_has_its_own_list() -> None:
    options_of(on_meta("deeplabv3_mobilenet_v3_large"))["atrous_rates"].append(5)
    assert options_of(on_meta("deeplabv3_mobilenet_v3_large"))["atrous_rates"] == [12, 24, 36]


def test_average_pooling_variants_are_equal_without_dilation() -> None:
    options = {"downsample": "average_dilated", "output_stride": 32}
    assert options_of(on_meta("fcn_resnet18", **options))["downsample"] == "average"
    options = {"downsample": "average_dilated", "output_stride": 16, "multi_grid": (1, 2)}
    assert options_of(on_meta("fcn_resnet18", **options))["downsample"] == "average_dilated"


def test_classifiers_with_other_norms() -> None:
    frozen = backbones.resnet18(num_classes=2, norm_layer="frozen", norm_eps=1e-3, zero_init_residual=True)
    assert options_of(frozen) == {"num_classes": 2, "norm_layer": "frozen", "norm_eps": 1e-3}
    assert not part(frozen, "layer1.0.bn2.weight").any()
    mobile = backbones.mobilenet_v3_small(norm_eps=1e-5, dilated=True, in_channels=1)
    assert options_of(mobile) == {"num_classes": 1000, "norm_eps": 1e-5, "dilated": True, "in_channels": 1}
    assert {(m.eps, m.momentum) for m in mobile.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-5, 0.01)}
    assert backbones.resnet18(norm_layer=nn.BatchNorm2d).config is None, "a function can't be recorded"
