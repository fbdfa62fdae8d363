"""Conversions of transformers' ResNets as save_pretrained writes them, with and without classifier."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.peers.compare import State, Theirs, needs, randomised
from tests.peers.conversions import Conversion, check, logits
from tests.peers.saving import pretrained
from tests.peers.test_transformers import LAYERS, SIZES
from weights_tools.recognise.layouts.tables import TRANSFORMERS

pytestmark = needs("transformers")
(RESNET,) = TRANSFORMERS


def classifier(name: str, arguments: dict[str, Any]) -> Theirs:
    models: Any = importlib.import_module("transformers")
    network = models.ResNetForImageClassification(models.ResNetConfig(num_labels=9, **SIZES[name], **arguments))
    randomised(network, gain=0.6)
    return Theirs(network, logits(network), {})


def features(name: str, arguments: dict[str, Any]) -> Theirs:
    models: Any = importlib.import_module("transformers")
    network = randomised(models.ResNetModel(models.ResNetConfig(**SIZES[name], **arguments)), gain=0.6)

    def run(x: Tensor) -> State:
        return dict(zip(LAYERS, network(x, output_hidden_states=True).hidden_states, strict=True))

    return Theirs(network, run, {})


def case(name: str, arguments: dict[str, Any], *, alone: bool = False, **options: Any) -> Conversion:
    kind = "ResNetModel" if alone else "ResNetForImageClassification"
    text = "".join(f", {key}={value}" for key, value in arguments.items())
    return Conversion(
        "transformers",
        "transformers",
        RESNET,
        f"{kind} as {name}{text}",
        name,
        partial(features if alone else classifier, name, arguments),
        pretrained,
        "save_pretrained",
        options,
        layers=LAYERS if alone else (),
    )


CONVERSIONS = [
    *(case(name, {}) for name in ("resnet18", "resnet34", "resnet50")),
    case("resnet50", {"downsample_in_bottleneck": True}, stride_in_1x1=True),
    case("resnet18", {"num_channels": 1}),
    *(case(name, {}, alone=True) for name in ("resnet18", "resnet50")),
    case("resnet50", {"downsample_in_bottleneck": True}, alone=True, stride_in_1x1=True),
]


@pytest.mark.parametrize("conversion", CONVERSIONS, ids=str)
def test_the_converted_network_computes_the_same(conversion: Conversion, tmp_path: Path) -> None:
    check(conversion, tmp_path)
