"""Tables of timm: ResNets with their variants C and D, and MobileNetV3.

Source: timm 1.0, models/resnet.py and models/mobilenetv3.py. Its plain ResNets have torchvision's names and give
bit-identical outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from segnets.backbones.mobilenet_v3 import large_blocks, small_blocks
from segnets.layers import InvertedResidualSpec
from weights_tools.recognise.layouts.key_map import KeyMap
from weights_tools.recognise.layouts.network_table import BackboneTable, NetworkTable
from weights_tools.recognise.layouts.tables._resnet import resnet_keys


def mobilenet_keys(specs: Sequence[InvertedResidualSpec], depths: Sequence[int], prefix: str = "") -> KeyMap:
    """Return the names of a MobileNetV3 without its classifier.

    Args:
        specs: Blocks of the network.
        depths: Number of blocks in each of timm's stages. Our blocks are numbered throughout.
        prefix: Prefix of every name, for example "encoder.model.".
    """
    keys = {f"{prefix}conv_stem": "backbone.0.0", f"{prefix}bn1": "backbone.0.1"}
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    for number, ((stage, block), spec) in enumerate(zip(places, specs, strict=True), start=1):
        expands = spec.expanded_channels != spec.in_channels
        convolutions = ["conv_pw", "conv_dw", "conv_pwl"] if expands else ["conv_dw", "conv_pw"]
        for place, convolution in enumerate(convolutions):
            # The gate comes before the last convolution and is counted.
            ours = place + (spec.squeeze_excitation and place == len(convolutions) - 1)
            theirs = f"{prefix}blocks.{stage}.{block}"
            keys[f"{theirs}.{convolution}"] = f"backbone.{number}.block.{ours}.0"
            keys[f"{theirs}.bn{place + 1}"] = f"backbone.{number}.block.{ours}.1"
        if spec.squeeze_excitation:
            gate = f"backbone.{number}.block.{len(convolutions) - 1}"
            keys[f"{prefix}blocks.{stage}.{block}.se.conv_reduce"] = f"{gate}.fc1"
            keys[f"{prefix}blocks.{stage}.{block}.se.conv_expand"] = f"{gate}.fc2"
    last, stage = len(places) + 1, len(depths)
    keys[f"{prefix}blocks.{stage}.0.conv"] = f"backbone.{last}.0"
    keys[f"{prefix}blocks.{stage}.0.bn1"] = f"backbone.{last}.1"
    return keys


def mobilenet_backbones(prefix: str = "") -> tuple[BackboneTable, ...]:
    """Return the tables of both MobileNetV3s.

    timm's eps differs from torchvision's, and the first block of a dilated stage is dilated less.
    """
    return tuple(
        BackboneTable(
            f"{prefix}blocks.{len(depths)}.0.conv.weight",
            mobilenet_keys(blocks(), depths, prefix),
            {"norm_eps": 1e-5, "first_block_dilation": "previous"},
            flattened=("classifier.0.weight",),
        )
        for blocks, depths in ((large_blocks, (1, 2, 3, 4, 2, 3)), (small_blocks, (1, 2, 3, 2, 3)))
    )


_STEMS = (
    BackboneTable("conv1.weight", resnet_keys()),
    BackboneTable("conv1.0.weight", resnet_keys()),
)

TIMM = (
    NetworkTable(
        "ResNet",
        "layer1.0.conv1.weight",
        "",
        _STEMS,
        {"fc": "fc"},
        "fc",
        choices={"norm_layer": None},
        look_alikes={
            "resnet18": "timm's resnetblur18 (anti-aliased downsampling)",
            "resnet34": "timm's resnetaa34d (anti-aliased downsampling)",
            "resnet50": "timm's resnetaa50, resnetaa50d, resnetblur50 or resnetblur50d (anti-aliased downsampling)",
            "resnet101": "timm's resnetaa101d or resnetblur101d (anti-aliased downsampling)",
        },
    ),
    NetworkTable(
        "MobileNetV3",
        "conv_stem.weight",
        "",
        mobilenet_backbones(),
        {"conv_head": "classifier.0", "classifier": "classifier.3"},
        "classifier.3",
        look_alikes={
            f"mobilenet_v3_{size}": f"timm's tf_mobilenetv3_{size}_100 (a different eps, TensorFlow's padding)"
            for size in ("large", "small")
        },
    ),
)
