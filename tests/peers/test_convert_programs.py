"""Conversions from programs that are on no package index, rebuilt from parts of torchvision and SMP.

VainF/DeepLabV3Plus-Pytorch: its DeepLabV3 is torchvision's under other names. Its DeepLabV3+ is rebuilt here from a
description, so these tests check the mapping of names, but not that the project computes the same.
Navifra-Kerry/SemanticSegmentation-Libtorch: torchvision's networks with eps 1e-3 in the heads' norms outside ASPP,
saved by C++. AllentDan/LibtorchSegmentation: SMP's networks under the names of that program, saved by C++.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import weights_tools
from segnets.errors import WeightsError
from tests.peers import saving
from tests.peers.compare import NUM_CLASSES, State, Theirs, randomised, with_norms
from tests.peers.conversions import Conversion, check, converted
from tests.peers.test_convert_smp import whole
from tests.peers.test_torchvision import ASPP, deeplab, fcn, model_of, resnet
from weights_tools.recognise.layouts.tables import ALLENTDAN, NAVIFRA, VAINF

OUT = {"layer4": "out"}
RATES = {8: (12, 24, 36), 16: (6, 12, 18)}


class Classifier(nn.Module):
    """VainF's DeepLabHead, which has torchvision's layers inside another module."""

    def __init__(self, channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.classifier = deeplab(channels, rates)

    def forward(self, features: State) -> Tensor:
        logits: Tensor = self.classifier(features["out"])
        return logits


class PlusClassifier(nn.Module):
    """VainF's DeepLabHeadV3Plus, after its description."""

    def __init__(self, channels: int, low_channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(low_channels, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.aspp = ASPP(channels, rates)
        self.classifier = nn.Sequential(
            nn.Conv2d(304, 256, 3, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Conv2d(256, NUM_CLASSES, 1),
        )

    def forward(self, features: State) -> Tensor:
        low = self.project(features["low"])
        high = F.interpolate(self.aspp(features["out"]), size=low.shape[2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.classifier(torch.cat([low, high], dim=1))
        return logits


class Segmentation(nn.Module):
    """VainF's _SimpleSegmentationModel."""

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(self.backbone(x))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


def vainf(name: str, plus: bool, stride: int) -> Theirs:
    backbone = resnet(name, stride, {"layer1": "low", **OUT} if plus else OUT)
    rates = RATES[stride]
    module = Segmentation(backbone, PlusClassifier(2048, 256, rates) if plus else Classifier(2048, rates))
    randomised(module, gain=0.6, within="backbone.")
    return Theirs(module, lambda x: {"out": module(x)}, {})


def vainf_case(name: str, plus: bool, stride: int, **options: Any) -> Conversion:
    kind = "deeplabv3plus" if plus else "deeplabv3"
    return Conversion(
        "",
        "vainf",
        VAINF[plus],
        f"{kind}_{name}, output stride {stride} (composed)",
        f"{kind}_{name}",
        partial(vainf, name, plus, stride),
        saving.vainf,
        "main.py",
        options,
    )


def navifra(kind: str, depth: str) -> Theirs:
    """Return one of Navifra's networks; all have an auxiliary head."""
    head = deeplab(2048, RATES[8]) if kind == "deeplabv3" else fcn(2048)
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    backbone = resnet(depth, 8, {"layer3": "aux", **OUT})
    module = model_of(kind, backbone, with_norms(head, norm, but=ASPP), with_norms(fcn(1024), norm))
    randomised(module, gain=0.6, within="backbone.")
    return Theirs(module, lambda x: dict(module(x)), {})


def navifra_case(kind: str, depth: str) -> Conversion:
    return Conversion(
        "",
        "navifra",
        NAVIFRA[kind == "fcn"],
        f"{kind} on {depth} (composed)",
        f"{kind}_{depth}",
        partial(navifra, kind, depth),
        saving.cpp(lambda state: state),
        "torch::save",
        asked="navifra",
    )


# SMP's names -> those of AllentDan's program: branches of ASPP are Sequentials, separable convolutions two layers.
ALLENTDAN_NAMES = {
    r"segmentation_head\.0\.": "segmentation_head.conv2d.",
    # DeepLabV3+
    r"decoder\.aspp\.0\.convs\.([123])\.0\.0\.": r"decoder.aspp.modules.\1.0.",
    r"decoder\.aspp\.0\.convs\.([123])\.0\.1\.": r"decoder.aspp.modules.\1.1.",
    r"decoder\.aspp\.0\.convs\.([123])\.1\.": r"decoder.aspp.modules.\1.2.",
    r"decoder\.aspp\.0\.convs\.0\.": "decoder.aspp.modules.0.",
    r"decoder\.aspp\.0\.convs\.4\.": "decoder.aspp.aspppooling.seq.",
    r"decoder\.aspp\.0\.project\.": "decoder.aspp.project.",
    r"decoder\.aspp\.1\.0\.": "decoder.aspp_seq.0.",
    r"decoder\.aspp\.1\.1\.": "decoder.aspp_seq.1.",
    r"decoder\.aspp\.2\.": "decoder.aspp_seq.2.",
    r"decoder\.block2\.0\.0\.": "decoder.block2.0.",
    r"decoder\.block2\.0\.1\.": "decoder.block2.1.",
    r"decoder\.block2\.1\.": "decoder.block2.2.",
    # DeepLabV3
    r"decoder\.aspp\.convs\.4\.": "decoder.seq.0.aspppooling.seq.",
    r"decoder\.aspp\.convs\.": "decoder.seq.0.modules.",
    r"decoder\.aspp\.project\.": "decoder.seq.0.project.",
    r"decoder\.conv\.": "decoder.seq.1.",
    r"decoder\.bn\.": "decoder.seq.2.",
    r"decoder\.block1\.": "decoder.block1.",
    r"encoder\.": "encoder.",
}


def as_allentdan(state: Mapping[str, Tensor]) -> State:
    """Rename SMP's tensors and add the ImageNet classifier that this program's encoder keeps."""
    result: State = {"encoder.fc.weight": torch.ones(1000, 512), "encoder.fc.bias": torch.zeros(1000)}
    for name, tensor in state.items():
        pattern = next(pattern for pattern in ALLENTDAN_NAMES if re.match(pattern, name))
        result[re.sub(f"^{pattern}", ALLENTDAN_NAMES[pattern], name)] = tensor
    assert len(result) == len(state) + 2
    return result


def allentdan_case(architecture: str, encoder: str, arguments: dict[str, Any], **options: Any) -> Conversion:
    return Conversion(
        "segmentation_models_pytorch",
        "allentdan",
        ALLENTDAN[architecture == "DeepLabV3Plus"],
        f"{architecture} on {encoder} (composed)" + "".join(f", {name}={value}" for name, value in arguments.items()),
        f"{architecture.lower()}_{encoder}",
        partial(whole, architecture, encoder, arguments),
        saving.cpp(as_allentdan),
        "torch::save",
        options,
        divisible=True,
    )


CONVERSIONS = [
    *(vainf_case("resnet50", plus, 16) for plus in (False, True)),
    *(vainf_case("resnet50", plus, 8, output_stride=8) for plus in (False, True)),
    vainf_case("resnet101", False, 16),
    navifra_case("deeplabv3", "resnet50"),
    navifra_case("fcn", "resnet50"),
    allentdan_case("DeepLabV3", "resnet18", {"encoder_output_stride": 8}),
    allentdan_case("DeepLabV3", "resnet50", {"encoder_output_stride": 8}),
    allentdan_case("DeepLabV3Plus", "resnet18", {}),
    allentdan_case("DeepLabV3Plus", "resnet34", {"encoder_output_stride": 8}, output_stride=8),
]


@pytest.mark.parametrize("conversion", CONVERSIONS, ids=str)
def test_the_converted_network_computes_the_same(conversion: Conversion, tmp_path: Path) -> None:
    check(conversion, tmp_path)


@pytest.mark.parametrize("kind", ["deeplabv3", "fcn"])
def test_a_cpp_archive_with_torchvisions_names_is_ambiguous(kind: str, tmp_path: Path) -> None:
    """With torchvision's eps the outputs differ, so the layout can't be guessed."""
    conversion = navifra_case(kind, "resnet50")
    converted(conversion, tmp_path)
    with pytest.raises(WeightsError, match="the tensors fit several layouts: torchvision, navifra"):
        weights_tools.convert(tmp_path / "cpp.pt", tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()
