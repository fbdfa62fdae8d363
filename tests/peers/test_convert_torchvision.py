"""Conversions from torchvision: the six segmentation networks as its reference script saves them, and classifiers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import NAMES, torchvision
from tests.peers.compare import NUM_CLASSES, Theirs, randomised
from tests.peers.conversions import Conversion, check, logits
from tests.peers.saving import torchvision_script

CLASSIFIERS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
)


def segmentation(name: str, arguments: dict[str, Any]) -> Theirs:
    network = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=NUM_CLASSES, **arguments
    )
    randomised(network, gain=0.9 if "mobilenet" in name else 0.6, within="backbone.")
    return Theirs(network, lambda x: dict(network(x)), {})


def classifier(name: str) -> Theirs:
    network = torchvision.models.get_model(name, weights=None, num_classes=9)
    randomised(network, gain=1.0 if "small" in name else 0.9 if "large" in name else 0.6)
    return Theirs(network, logits(network), {})


def case(name: str, arguments: dict[str, Any] | None = None) -> Conversion:
    text = "".join(f"{key}={value}" for key, value in (arguments or {}).items())
    theirs = partial(classifier, name) if arguments is None else partial(segmentation, name, arguments)
    network = name if arguments is None else f"{name}({text})"
    return Conversion("", "torchvision", None, network, name, theirs, torchvision_script, "references/*/train.py")


CONVERSIONS = [
    *(case(name, {}) for name in NAMES),
    *(case(name, {"aux_loss": True}) for name in NAMES if "lraspp" not in name),
    *(case(name) for name in CLASSIFIERS),
]


@pytest.mark.parametrize("conversion", CONVERSIONS, ids=str)
def test_the_converted_network_computes_the_same(conversion: Conversion, tmp_path: Path) -> None:
    check(conversion, tmp_path)
