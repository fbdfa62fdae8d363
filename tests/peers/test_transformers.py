"""Parity with transformers: features of its ResNet, with the stride in either convolution."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from torch import Tensor

from tests.peers.compare import (
    Case,
    Change,
    State,
    Theirs,
    check,
    check_differs,
    needs,
    randomised,
    with_one_option_changed,
)

pytestmark = needs("transformers")

LAYERS = ("maxpool", "layer1", "layer2", "layer3", "layer4")
LEAVES = {"convolution": ("conv", 0), "normalization": ("bn", 1)}


def our_name(name: str) -> str:
    if match := re.fullmatch(r"embedder\.embedder\.(\w+)\.(\w+)", name):
        return f"{LEAVES[match[1]][0]}1.{match[2]}"
    match = re.fullmatch(r"encoder\.stages\.(\d)\.layers\.(\d+)\.(?:shortcut|layer\.(\d))\.(\w+)\.(\w+)", name)
    assert match is not None, name
    kind, place = LEAVES[match[4]]
    layer = f"downsample.{place}" if match[3] is None else f"{kind}{int(match[3]) + 1}"
    return f"layer{int(match[1]) + 1}.{match[2]}.{layer}.{match[5]}"


def resnet(**configuration: Any) -> Theirs:
    from transformers import ResNetConfig, ResNetModel

    network = randomised(ResNetModel(ResNetConfig(**configuration)), gain=0.6)

    def run(x: Tensor) -> State:
        return dict(zip(LAYERS, network(x, output_hidden_states=True).hidden_states, strict=True))

    state = {our_name(name): tensor.clone() for name, tensor in network.state_dict().items()}
    return Theirs(network, run, state)


BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
SIZES: dict[str, dict[str, Any]] = {
    "resnet18": {**BASIC, "depths": [2, 2, 2, 2]},
    "resnet34": {**BASIC, "depths": [3, 4, 6, 3]},
    "resnet50": {"depths": [3, 4, 6, 3]},
    "resnet101": {"depths": [3, 4, 23, 3]},
}


def case(name: str, stride_in_1x1: bool) -> Case:
    text = ", downsample_in_bottleneck=True" if stride_in_1x1 else ""
    options = {"output_stride": 32, **({"stride_in_1x1": True} if stride_in_1x1 else {})}
    theirs = partial(resnet, downsample_in_bottleneck=stride_in_1x1, **SIZES[name])
    return Case("transformers", f"ResNetModel as {name}{text}", f"fcn_{name}", options, theirs, LAYERS)


CASES = [*(case(name, False) for name in SIZES), case("resnet50", True), case("resnet101", True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_transformers(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("change", with_one_option_changed(CASES), ids=str)
def test_another_value_gives_other_outputs(change: Change) -> None:
    check_differs(change)
