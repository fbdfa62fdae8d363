"""Parity with mmsegmentation: features of ResNets, and whole networks with FCN, DeepLabV3 and PSPNet heads.

Whole networks are mmsegmentation's EncoderDecoder with an auxiliary head, so its resizing is compared too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from torch import Tensor

from tests.peers.compare import (
    NUM_CLASSES,
    Case,
    Change,
    Rules,
    State,
    Theirs,
    check,
    check_differs,
    needs,
    randomised,
    renamed,
    with_one_option_changed,
)
from weights_tools.check.peers._mmseg_import import mmseg_models, silence_advice

pytestmark = needs("mmsegmentation")

LAYERS = ("layer1", "layer2", "layer3", "layer4")
# mmsegmentation's deep stem is one Sequential of convolutions, norms and ReLUs; ours has the last norm apart.
# Norms are named after their kind: gn1 for a group norm.
BACKBONE: Rules = {r"stem\.7\.": "bn1.", r"stem\.": "conv1.", r"(layer\d\.\d\.)?gn(\d)\.": r"\1bn\2.", "": ""}
ENCODER: Rules = {rf"backbone\.{pattern}": f"backbone.{new}" for pattern, new in BACKBONE.items()}
AUXILIARY = {
    r"auxiliary_head\.convs\.0\.conv\.": "aux_classifier.0.",
    r"auxiliary_head\.convs\.0\.bn\.": "aux_classifier.1.",
    r"auxiliary_head\.conv_seg\.": "aux_classifier.4.",
}
FCN_ONE: Rules = {name.replace("auxiliary", "decode"): new.replace("aux_", "") for name, new in AUXILIARY.items()}
HEADS: dict[str, Rules] = {
    "FCNHead": {
        r"decode_head\.convs\.(\d)\.conv\.": r"classifier.convs.\1.0.",
        r"decode_head\.convs\.(\d)\.bn\.": r"classifier.convs.\1.1.",
        r"decode_head\.conv_cat\.conv\.": "classifier.fuse.0.",
        r"decode_head\.conv_cat\.bn\.": "classifier.fuse.1.",
        r"decode_head\.conv_seg\.": "classifier.classify.",
    },
    "ASPPHead": {
        r"decode_head\.aspp_modules\.(\d)\.conv\.": r"classifier.0.convs.\1.0.",
        r"decode_head\.aspp_modules\.(\d)\.bn\.": r"classifier.0.convs.\1.1.",
        r"decode_head\.image_pool\.1\.conv\.": "classifier.0.convs.4.1.",
        r"decode_head\.image_pool\.1\.bn\.": "classifier.0.convs.4.2.",
        r"decode_head\.bottleneck\.conv\.": "classifier.0.project.0.",
        r"decode_head\.bottleneck\.bn\.": "classifier.0.project.1.",
        r"decode_head\.conv_seg\.": "classifier.1.",
    },
    "PSPHead": {
        r"decode_head\.psp_modules\.(\d)\.1\.conv\.": r"classifier.pyramid.\1.1.",
        r"decode_head\.psp_modules\.(\d)\.1\.bn\.": r"classifier.pyramid.\1.2.",
        r"decode_head\.bottleneck\.conv\.": "classifier.fuse.0.",
        r"decode_head\.bottleneck\.bn\.": "classifier.fuse.1.",
        r"decode_head\.conv_seg\.": "classifier.classify.",
    },
}
# Output stride -> mmsegmentation's strides and dilations.
STRIDES: dict[int, dict[str, Any]] = {
    8: {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
    16: {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)},
    32: {},
}
# Arguments of the FCNHead of auxiliary heads, which is also torchvision's FCN.
ONE_CONV = {"num_convs": 1, "concat_input": False}


def backbone(kind: str, arguments: Mapping[str, Any]) -> Theirs:
    network = randomised(getattr(mmseg_models().backbones, kind)(**arguments), gain=0.6)

    def run(x: Tensor) -> State:
        return dict(zip(LAYERS, network(x), strict=True))

    return Theirs(network, run, renamed(network.state_dict(), BACKBONE))


def whole(arguments: Mapping[str, Any], head: Mapping[str, Any], aux: Mapping[str, Any], rules: Rules) -> Theirs:
    segmentors = mmseg_models().segmentors
    with silence_advice():
        network = segmentors.EncoderDecoder(backbone=dict(arguments), decode_head=dict(head), auxiliary_head=dict(aux))
    randomised(network, gain=0.6, within="backbone.")

    def run(x: Tensor) -> State:
        metas = [{"img_shape": tuple(x.shape[-2:])}]
        maps = network.extract_feat(x)
        with silence_advice():
            heads = {"out": network.decode_head, "aux": network.auxiliary_head}
            return {name: head.predict(maps, metas, network.test_cfg) for name, head in heads.items()}

    return Theirs(network, run, renamed(network.state_dict(), {**ENCODER, **rules, **AUXILIARY}))


def features(kind: str, depth: int, stride: int, arguments: Mapping[str, Any] | None = None, **options: Any) -> Case:
    given = dict(arguments or {})
    # Without contract_dilation a stage's first block has the stage's dilation.
    same = not given.get("contract_dilation") and stride < (16 if "multi_grid" in given else 32)
    options = {"output_stride": stride, **({"first_block_dilation": "same"} if same else {}), **options}
    if depth < 50 and (stride < 32 or "multi_grid" in given):
        options["basic_block_dilation"] = "first"
    text = "".join(f", {name}={value!r}" for name, value in given.items())
    theirs = partial(backbone, kind, {"depth": depth, **STRIDES[stride], **given})
    network = f"{kind}-{depth}, output stride {stride}{text}"
    return Case("mmsegmentation", network, f"fcn_resnet{depth}", options, theirs, LAYERS)


def network(
    head: str, ours: str, depth: int, stride: int, arguments: Mapping[str, Any], rules: Rules | None = None, **own: Any
) -> Case:
    """Return a whole network as published: deep stem, contracted dilation, auxiliary head."""
    channels = 2048 if depth >= 50 else 512
    norms = {part: {"type": "BN", "eps": own.get(part, 1e-5)} for part in ("norm_eps", "head_norm_eps")}
    corners = own.get("align_corners", False)
    common = {"num_classes": NUM_CLASSES, "align_corners": corners, "norm_cfg": norms["head_norm_eps"]}
    body = {"type": "ResNetV1c", "depth": depth, "norm_cfg": norms["norm_eps"], "contract_dilation": True}
    decode = {"type": head, "in_channels": channels, "channels": channels // 4, **arguments, **common}
    aux = {"type": "FCNHead", "in_channels": channels // 2, "in_index": 2, "channels": channels // 8, **ONE_CONV}
    options: dict[str, Any] = {"output_stride": stride, "stem": "deep", "aux_loss": True, **own}
    if depth < 50 and stride < 32:
        options["basic_block_dilation"] = "first"
    if rules is None:
        options["head_variant"] = "mmseg"
    text = "".join(f", {name}={value!r}" for name, value in arguments.items())
    text += ", align_corners=True" if corners else ""
    text += ", other norm eps" if "norm_eps" in own else ""
    return Case(
        "mmsegmentation",
        f"ResNetV1c-{depth}, output stride {stride} + {head}{text}",
        f"{ours}_resnet{depth}",
        options,
        partial(whole, {**body, **STRIDES[stride]}, decode, {**aux, **common}, rules or HEADS[head]),
    )


WIDE = {"dilations": (1, 12, 24, 36)}
CASES = [
    *(features("ResNet", depth, stride) for depth in (18, 50) for stride in (8, 16, 32)),
    *(features("ResNet", depth, stride, {"contract_dilation": True}) for depth in (18, 50) for stride in (8, 16)),
    features("ResNet", 34, 8),
    features("ResNet", 101, 8, {"contract_dilation": True}),
    *(features("ResNet", 50, stride, {"style": "caffe"}, stride_in_1x1=True) for stride in (8, 16, 32)),
    features("ResNet", 50, 16, {"multi_grid": (1, 2, 4)}, multi_grid=(1, 2, 4)),
    *(
        features("ResNet", 50, 8, {"multi_grid": (1, 2, 4), "contract_dilation": contract}, multi_grid=(1, 2, 4))
        for contract in (False, True)
    ),
    features("ResNet", 50, 32, {"multi_grid": (1, 2, 4)}, multi_grid=(1, 2, 4)),
    features("ResNet", 18, 16, {"multi_grid": (2, 4)}, multi_grid=(2, 4)),
    *(features("ResNetV1c", 50, stride, {"contract_dilation": True}, stem="deep") for stride in (8, 16)),
    features("ResNetV1c", 18, 32, stem="deep"),
    *(
        features("ResNetV1d", depth, stride, stem="deep", downsample="average")
        for depth in (18, 50)
        for stride in (8, 16, 32)
    ),
    features("ResNet", 50, 32, {"norm_cfg": {"type": "BN", "eps": 1e-3}}, norm_eps=1e-3),
    features("ResNet", 18, 32, {"norm_cfg": {"type": "GN", "num_groups": 32}}, norm_layer="group"),
    *(features("ResNet", 18, 32, {"in_channels": channels}, in_channels=channels) for channels in (1, 4)),
    *(network("FCNHead", "fcn", 50, stride, {}) for stride in (8, 16)),
    *(network("FCNHead", "fcn", 18, stride, {}, align_corners=True) for stride in (8, 32)),
    network("FCNHead", "fcn", 50, 8, {"channels": 64}, head_channels=64),
    network("FCNHead", "fcn", 50, 8, ONE_CONV, FCN_ONE),
    network("FCNHead", "fcn", 18, 8, ONE_CONV, FCN_ONE, align_corners=True),
    network("ASPPHead", "deeplabv3", 50, 8, WIDE),
    network("ASPPHead", "deeplabv3", 50, 16, {}, align_corners=True),
    network("ASPPHead", "deeplabv3", 18, 8, {**WIDE, "channels": 128}, head_channels=128, align_corners=True),
    network("ASPPHead", "deeplabv3", 18, 16, {"dilations": (1, 2, 3, 5)}, atrous_rates=(2, 3, 5), head_channels=128),
    network("PSPHead", "pspnet", 50, 8, {}),
    *(network("PSPHead", "pspnet", 50, stride, {}, align_corners=True) for stride in (16, 32)),
    *(
        network("PSPHead", "pspnet", 18, 8, {"channels": 128}, head_channels=128, align_corners=corners)
        for corners in (False, True)
    ),
    network("PSPHead", "pspnet", 18, 8, {"channels": 64}, head_channels=64, norm_eps=1e-2, head_norm_eps=2e-2),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mmseg(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("change", with_one_option_changed(CASES), ids=str)
def test_another_value_gives_other_outputs(change: Change) -> None:
    check_differs(change)
