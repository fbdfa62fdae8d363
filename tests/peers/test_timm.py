"""Parity with timm: features of ResNets and MobileNetV3 at every output stride, and adapted first convolutions.

timm's convention is our default for ResNets. Its MobileNetV3 has another eps and dilates first blocks less.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from torch import Tensor, nn

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

pytestmark = needs("timm")

RESNET_LAYERS = ("relu", "layer1", "layer2", "layer3", "layer4")
# Our names of timm's feature maps (stages 0, 1, 2, 4 and the last layer), and the number of blocks per stage.
MOBILENETS = {
    "large": (("1", "3", "6", "12", "16"), (1, 2, 3, 4, 2, 3)),
    "small": (("0", "1", "3", "8", "12"), (1, 2, 3, 2, 3)),
}


def features(network: nn.Module, layers: tuple[str, ...], state: State) -> Theirs:
    def run(x: Tensor) -> State:
        return dict(zip(layers, network(x), strict=True))

    return Theirs(network, run, state)


def resnet(name: str, **arguments: Any) -> Theirs:
    import timm

    network = randomised(timm.create_model(name, features_only=True, **arguments), gain=0.6)
    return features(network, RESNET_LAYERS, {name: tensor.clone() for name, tensor in network.state_dict().items()})


def adapted_resnet(name: str, in_chans: int) -> Theirs:
    """Return a network whose first convolution timm adapted from the returned state, which is for RGB."""
    import timm
    from timm.models import adapt_input_conv

    theirs = resnet(name)
    network = timm.create_model(name, features_only=True, in_chans=in_chans)
    first = {"conv1.weight": adapt_input_conv(in_chans, theirs.state["conv1.weight"])}
    network.load_state_dict({**theirs.state, **first}, strict=True)
    return features(network, RESNET_LAYERS, theirs.state)


def mobilenet(size: str, output_stride: int) -> Theirs:
    import timm

    layers, depths = MOBILENETS[size]
    network = timm.create_model(f"mobilenetv3_{size}_100", features_only=True, output_stride=output_stride)
    randomised(network, gain=0.88)
    return features(network, layers, mobilenet_names(network.state_dict(), depths))


def mobilenet_names(state: State, depths: tuple[int, ...]) -> State:
    """Rename timm's tensors to our names, which number the layers and the layers of a block."""
    result: State = {}
    for name, tensor in state.items():
        result[_mobilenet_name(name, state, depths)] = tensor.clone()
    assert len(result) == len(state)
    return result


def _mobilenet_name(name: str, state: State, depths: tuple[int, ...]) -> str:
    if name.startswith("conv_stem."):
        return name.replace("conv_stem", "0.0")
    if name.startswith("bn1."):
        return name.replace("bn1", "0.1")
    match = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.+)\.(\w+)", name)
    assert match is not None, name
    stage, block, layer, leaf = int(match[1]), int(match[2]), match[3], match[4]
    number = 1 + sum(depths[:stage]) + block
    if stage == len(depths):  # timm has the last layer as a stage
        return f"{number}.{ {'conv': 0, 'bn1': 1}[layer] }.{leaf}"
    path = f"blocks.{stage}.{block}."
    gated = f"{path}se.conv_reduce.weight" in state
    if f"{path}conv_pwl.weight" in state:
        order = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1"}
        order.update({"conv_pwl": f"{2 + gated}.0", "bn3": f"{2 + gated}.1"})
        gate = 2
    else:  # a block without expansion
        order = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": f"{1 + gated}.0", "bn2": f"{1 + gated}.1"}
        gate = 1
    order.update({"se.conv_reduce": f"{gate}.fc1", "se.conv_expand": f"{gate}.fc2"})
    return f"{number}.block.{order[layer]}.{leaf}"


def resnet_case(name: str, ours: str, output_stride: int, **options: Any) -> Case:
    return Case(
        "timm",
        f"{name}, output_stride={output_stride}",
        f"fcn_{ours}",
        {"output_stride": output_stride, **options},
        partial(resnet, name, output_stride=output_stride),
        RESNET_LAYERS,
    )


CASES = [
    *(
        resnet_case(name, name, stride)
        for name in ("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
        for stride in (8, 16, 32)
    ),
    resnet_case("resnet101", "resnet101", 8),
    resnet_case("resnet152", "resnet152", 32),
    *(resnet_case(name, name, 32) for name in ("resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2")),
    *(resnet_case("resnet50c", "resnet50", stride, stem="deep") for stride in (8, 16, 32)),
    *(
        resnet_case(name, ours, stride, stem="deep", downsample="average_dilated")
        for name, ours in (("resnet18d", "resnet18"), ("resnet50d", "resnet50"))
        for stride in (8, 16, 32)
    ),
    resnet_case("resnet50d", "resnet50", 32, stem="deep", downsample="average"),
    *(resnet_case("resnet50_gn", "resnet50", stride, norm_layer="group") for stride in (8, 16, 32)),
    *(
        Case(
            "timm",
            f"resnet18, in_chans={channels}",
            "fcn_resnet18",
            {"output_stride": 32, "in_channels": channels},
            partial(resnet, "resnet18", in_chans=channels),
            RESNET_LAYERS,
        )
        for channels in (1, 4)
    ),
    *(
        Case(
            "timm",
            f"resnet18, in_chans={channels}, weights for RGB",
            "fcn_resnet18",
            {"output_stride": 32, "in_channels": channels},
            partial(adapted_resnet, "resnet18", channels),
            RESNET_LAYERS,
            adapts=True,
        )
        for channels in (1, 2, 4, 5, 6, 7)
    ),
    *(
        Case(
            "timm",
            f"mobilenetv3_{size}_100, output_stride={stride}",
            f"fcn_mobilenet_v3_{size}",
            {
                "output_stride": stride,
                "norm_eps": 1e-5,
                **({"first_block_dilation": "previous"} if stride < 32 else {}),
            },
            partial(mobilenet, size, stride),
            MOBILENETS[size][0],
        )
        for size in MOBILENETS
        for stride in (8, 16, 32)
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_timm(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("change", with_one_option_changed(CASES), ids=str)
def test_another_value_gives_other_outputs(change: Change) -> None:
    check_differs(change)
