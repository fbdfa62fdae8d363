"""Every option that changes the outputs is compared with another project at each of its values."""

from __future__ import annotations

from typing import Any

from segnets.options import NAMES, TRAINING
from segnets.registry import MODELS
from tests.peers.table import CASES

# Values of each option that must be compared.
VALUES: dict[str, set[Any]] = {
    "in_channels": {1, 3, 4},
    "output_stride": {8, 16, 32},
    "first_block_dilation": {"previous", "same"},
    "basic_block_dilation": {"both", "first"},
    "multi_grid": {(1, 2, 4)},
    "stem": {"plain", "deep"},
    "downsample": {"conv", "average", "average_dilated"},
    "stride_in_1x1": {False, True},
    "backbone_stages": {2, 3, 4},
    "norm_layer": {"batch", "sync", "frozen", "group"},
    "norm_eps": {1e-5, 1e-3},
    "head_variant": {"torchvision", "mmseg", "smp", "vainf"},
    "head_channels": {64, 256, 512},
    "atrous_rates": {(12, 24, 36), (6, 12, 18), (3, 6, 9), (2, 5)},
    "aspp_separable": {False, True},
    "pool_norm": {False, True},
    "head_norm_layer": {"batch", "sync", "frozen", "group"},
    "head_norm_eps": {1e-5, 1e-2},
    "aspp_norm_eps": {1e-5},
    "align_corners": {False, True},
}
# Options that change no output in eval mode, or only the number of classes.
OTHERS = {"num_classes", "aux_loss", "head_dropout", *TRAINING}


def test_every_option_is_listed_here() -> None:
    assert VALUES.keys() | OTHERS == set(NAMES), "new option: compare it in tests/peers and add it here"


def test_every_value_is_compared() -> None:
    seen: dict[str, set[Any]] = {name: set() for name in VALUES}
    for case in CASES:
        for name, value in MODELS[case.model].resolve(case.options).items():
            if name in seen:
                seen[name].add(tuple(value) if isinstance(value, list) else value)
    assert {name: values - seen[name] for name, values in VALUES.items() if values - seen[name]} == {}


def test_every_head_and_every_backbone_is_compared() -> None:
    compared = {case.model for case in CASES}
    assert {name.partition("_")[0] for name in compared} == {name.partition("_")[0] for name in MODELS}
    assert {name.partition("_")[2] for name in compared} == {name.partition("_")[2] for name in MODELS}


def test_no_case_is_listed_twice() -> None:
    assert len({str(case) + case.peer for case in CASES}) == len(CASES)
