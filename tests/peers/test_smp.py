"""Parity with segmentation_models_pytorch: DeepLabV3, DeepLabV3+ and PSPNet, from image to logits.

SMP dilates every convolution of a dilated stage, including the first block's, and resizes with align_corners=True.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.peers.compare import (
    NUM_CLASSES,
    Case,
    Change,
    Rules,
    Theirs,
    check,
    check_differs,
    needs,
    randomised,
    renamed,
    with_one_option_changed,
)
from tests.peers.test_timm import MOBILENETS, mobilenet_names

pytestmark = needs("segmentation_models_pytorch")

ENCODER: Rules = {r"encoder\.": "backbone."}
DEEPLABV3: Rules = {
    **ENCODER,
    r"decoder\.aspp\.": "classifier.0.",
    r"decoder\.conv\.": "classifier.1.",
    r"decoder\.bn\.": "classifier.2.",
    r"segmentation_head\.0\.": "classifier.4.",
}
DEEPLABV3PLUS: Rules = {
    **ENCODER,
    r"decoder\.aspp\.0\.": "classifier.aspp.",
    r"decoder\.aspp\.1\.": "classifier.refine.0.",
    r"decoder\.aspp\.2\.": "classifier.refine.1.",
    r"decoder\.block1\.": "classifier.project_low.",
    r"decoder\.block2\.": "classifier.fuse.",
    r"segmentation_head\.0\.": "classifier.classify.",
}
PSPNET: Rules = {
    **ENCODER,
    r"decoder\.psp\.blocks\.(\d)\.pool\.1\.0\.": r"classifier.pyramid.\1.1.",
    r"decoder\.psp\.blocks\.(\d)\.pool\.1\.1\.": r"classifier.pyramid.\1.2.",
    r"decoder\.conv\.": "classifier.fuse.",
    r"segmentation_head\.0\.": "classifier.classify.",
}


def unused(rules: Rules, depth: int) -> Rules:
    """Return rules that drop the unused stages: an encoder of smaller depth keeps them."""
    return {rf"encoder\.layer[{depth}-4]\.": None, **rules} if depth < 5 else rules


def network(architecture: str, encoder: str, rules: Rules, in_channels: int, arguments: dict[str, Any]) -> Theirs:
    import segmentation_models_pytorch as smp

    module = getattr(smp, architecture)(
        encoder, encoder_weights=None, classes=NUM_CLASSES, in_channels=in_channels, **arguments
    )
    randomised(module, gain=0.6, within="encoder.")
    return Theirs(module, lambda x: {"out": module(x)}, renamed(module.state_dict(), rules))


def on_mobilenet(architecture: str, size: str, rules: Rules, arguments: dict[str, Any]) -> Theirs:
    """Return a network of SMP with timm's MobileNetV3 as encoder."""
    import segmentation_models_pytorch as smp

    name = f"tu-mobilenetv3_{size}_100"
    module = getattr(smp, architecture)(name, encoder_weights=None, classes=NUM_CLASSES, **arguments)
    randomised(module, gain=0.93, within="encoder.")
    state, prefix = module.state_dict(), "encoder.model."
    encoder = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    head = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    ours = {f"backbone.{name}": tensor for name, tensor in mobilenet_names(encoder, MOBILENETS[size][1]).items()}
    return Theirs(module, lambda x: {"out": module(x)}, {**ours, **renamed(head, rules)})


def adapted(architecture: str, encoder: str, rules: Rules, in_channels: int, arguments: dict[str, Any]) -> Theirs:
    """Return a network whose first convolution SMP adapted from the returned state, which is for RGB."""
    from segmentation_models_pytorch.encoders._utils import patch_first_conv

    theirs = network(architecture, encoder, rules, 3, arguments)
    patch_first_conv(theirs.module.get_submodule("encoder"), in_channels, pretrained=True)
    return theirs


def case(
    architecture: str, encoder: str, rules: Rules, arguments: dict[str, Any], *, adapts: bool = False, **options: Any
) -> Case:
    depth = arguments.get("encoder_depth", 5)
    in_channels = options.get("in_channels", 3)
    shown = {**arguments, **({"in_channels": in_channels} if in_channels != 3 else {})}
    text = ", ".join([encoder, *(f"{name}={value}" for name, value in shown.items())])
    return Case(
        "segmentation_models_pytorch",
        f"{architecture}({text}){', weights for RGB' if adapts else ''}",
        f"{architecture.lower()}_{encoder}",
        {**options, "align_corners": True},
        partial(adapted if adapts else network, architecture, encoder, unused(rules, depth), in_channels, arguments),
        divisible=True,
        adapts=adapts,
    )


def deeplabv3(encoder: str, stride: int, arguments: dict[str, Any], **options: Any) -> Case:
    arguments = {"encoder_output_stride": stride, **arguments}
    return case(
        "DeepLabV3", encoder, DEEPLABV3, arguments, output_stride=stride, first_block_dilation="same", **options
    )


def deeplabv3plus(encoder: str, stride: int, arguments: dict[str, Any], **options: Any) -> Case:
    arguments = {"encoder_output_stride": stride, **arguments}
    if "backbone_stages" not in options:
        options["first_block_dilation"] = "same"
    # SMP has these rates at every output stride; our defaults halve at 16.
    options = {"atrous_rates": (12, 24, 36), **options}
    return case("DeepLabV3Plus", encoder, DEEPLABV3PLUS, arguments, output_stride=stride, **options)


def pspnet(encoder: str, depth: int, arguments: dict[str, Any], **options: Any) -> Case:
    arguments = {"encoder_depth": depth, "upsampling": 2**depth, **arguments}
    stages = {"output_stride": 2**depth, "backbone_stages": depth - 1}
    return case("PSPNet", encoder, PSPNET, arguments, head_variant="smp", **stages, **options)


def mobilenet(architecture: str, size: str, rules: Rules, arguments: dict[str, Any], **options: Any) -> Case:
    text = ", ".join([f"tu-mobilenetv3_{size}_100", *(f"{name}={value}" for name, value in arguments.items())])
    if options["output_stride"] < 32:
        options["first_block_dilation"] = "previous"
    return Case(
        "segmentation_models_pytorch",
        f"{architecture}({text})",
        f"{architecture.lower()}_mobilenet_v3_{size}",
        {**options, "norm_eps": 1e-5, "align_corners": True},
        partial(on_mobilenet, architecture, size, rules, arguments),
        divisible=True,
    )


WIDE = {"atrous_rates": (12, 24, 36)}
CASES = [
    *(deeplabv3(name, 8, {}) for name in ("resnet18", "resnet34", "resnet50")),
    deeplabv3("resnet18", 16, {}, atrous_rates=(12, 24, 36)),
    *(deeplabv3(name, 16, {"decoder_atrous_rates": (6, 12, 18)}) for name in ("resnet34", "resnet50")),
    deeplabv3("resnet50", 8, {"decoder_aspp_separable": True}, aspp_separable=True),
    deeplabv3("resnet18", 8, {"decoder_atrous_rates": (2, 3, 5)}, atrous_rates=(2, 3, 5)),
    deeplabv3("resnet18", 16, {"decoder_channels": 64, "decoder_atrous_rates": (6, 12, 18)}, head_channels=64),
    *(deeplabv3("resnet18", 16, {"decoder_atrous_rates": (6, 12, 18)}, in_channels=channels) for channels in (1, 4)),
    *(
        deeplabv3("resnet18", 16, {"decoder_atrous_rates": (6, 12, 18)}, in_channels=channels, adapts=True)
        for channels in (1, 4)
    ),
    deeplabv3("resnext50_32x4d", 8, {}),
    *(deeplabv3plus(name, 16, {}) for name in ("resnet18", "resnet34", "resnet50")),
    *(deeplabv3plus(name, 8, {}) for name in ("resnet18", "resnet50")),
    deeplabv3plus("resnet18", 16, {"decoder_aspp_separable": False}, aspp_separable=False),
    deeplabv3plus("resnet18", 16, {"decoder_channels": 64}, head_channels=64),
    deeplabv3plus("resnet18", 16, {"encoder_depth": 4}, backbone_stages=3),
    deeplabv3plus("resnet18", 16, {}, in_channels=4),
    *(pspnet(name, depth, {}) for name in ("resnet18", "resnet50") for depth in (3, 4, 5)),
    pspnet("resnet34", 3, {}, in_channels=1),
    pspnet("resnet18", 3, {"psp_out_channels": 64}, head_channels=64),
    mobilenet("DeepLabV3", "large", DEEPLABV3, {"encoder_output_stride": 8}, output_stride=8),
    mobilenet(
        "DeepLabV3",
        "large",
        DEEPLABV3,
        {"encoder_output_stride": 16, "decoder_atrous_rates": (6, 12, 18)},
        output_stride=16,
        atrous_rates=(6, 12, 18),
    ),
    # "large" has several blocks at 1/4 of the image's size, "small" a single one.
    mobilenet("DeepLabV3Plus", "large", DEEPLABV3PLUS, {"encoder_output_stride": 16}, output_stride=16, **WIDE),
    mobilenet("DeepLabV3Plus", "small", DEEPLABV3PLUS, {"encoder_output_stride": 16}, output_stride=16, **WIDE),
    mobilenet("PSPNet", "small", PSPNET, {"encoder_depth": 5, "upsampling": 32}, output_stride=32, head_variant="smp"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_smp(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("change", with_one_option_changed(CASES), ids=str)
def test_another_value_gives_other_outputs(change: Change) -> None:
    check_differs(change)
