"""Conversions of timm's classifiers and feature extractors, saved in timm's two ways."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.peers.compare import Theirs, needs, randomised
from tests.peers.conversions import Conversion, Save, check, logits, state_dict
from tests.peers.saving import timm_hub, timm_saver
from tests.peers.test_timm import MOBILENETS, RESNET_LAYERS, mobilenet, resnet
from weights_tools.recognise.layouts.network_table import NetworkTable
from weights_tools.recognise.layouts.tables import TIMM

pytestmark = needs("timm")
RESNET, MOBILENET = TIMM


def classifier(name: str, **arguments: Any) -> Theirs:
    import timm

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mapping deprecated model name")
        network = timm.create_model(name, num_classes=9, **arguments)
    gain = 1.0 if "small" in name else 0.9 if "large" in name else 0.6
    randomised(network, gain=gain)
    return Theirs(network, logits(network), {})


def case(
    name: str,
    model: str,
    save: Save = state_dict,
    saved: str = "state dict",
    arguments: dict[str, Any] | None = None,
    origin: NetworkTable = RESNET,
    layout: str = "timm",
    **options: Any,
) -> Conversion:
    text = "".join(f", {key}={value}" for key, value in (arguments or {}).items())
    theirs = partial(classifier, name, **(arguments or {}))
    own = origin if layout == "timm" else None
    return Conversion("timm", layout, own, f"{name}{text}", model, theirs, save, saved, options)


# A network of timm that equals torchvision's is recognised as torchvision's.
SAME: Any = {"layout": "torchvision"}
PLAIN = ("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
HUB = (timm_hub, "model.safetensors of save_for_hf")
SAVER = (timm_saver, "CheckpointSaver")
CONVERSIONS = [
    *(case(name, name, *HUB, **SAME) for name in PLAIN),
    case("resnet18", "resnet18", *SAVER, **SAME),
    case("gluon_resnet18_v1b", "resnet18", **SAME),
    *(case(name, "resnet50", *HUB) for name in ("resnet50c", "resnet50d")),
    case("resnet18d", "resnet18", *SAVER),
    case("resnet18", "resnet18", *SAVER, {"in_chans": 1}),
    case("resnet50_gn", "resnet50", *HUB, norm_layer="group"),
    *(case(f"mobilenetv3_{size}_100", f"mobilenet_v3_{size}", *HUB, origin=MOBILENET) for size in MOBILENETS),
    case("mobilenetv3_small_100", "mobilenet_v3_small", *SAVER, {"in_chans": 4}, MOBILENET),
    Conversion(
        "timm",
        "torchvision",
        None,
        "resnet18, features_only=True",
        "resnet18",
        partial(resnet, "resnet18"),
        layers=RESNET_LAYERS,
    ),
    Conversion(
        "timm",
        "timm",
        RESNET,
        "resnet50d, features_only=True",
        "resnet50",
        partial(resnet, "resnet50d"),
        layers=RESNET_LAYERS,
    ),
    *(
        Conversion(
            "timm",
            "timm",
            MOBILENET,
            f"mobilenetv3_{size}_100, features_only=True",
            f"mobilenet_v3_{size}",
            partial(mobilenet, size, 32),
            layers=layers,
        )
        for size, (layers, _) in MOBILENETS.items()
    ),
]


@pytest.mark.parametrize("conversion", CONVERSIONS, ids=str)
def test_the_converted_network_computes_the_same(conversion: Conversion, tmp_path: Path) -> None:
    check(conversion, tmp_path)


def test_a_plain_resnet_is_converted_as_timms_on_request(tmp_path: Path) -> None:
    """--layout timm gives the same network."""
    theirs = classifier("resnet18")
    plain = partial(lambda: theirs)
    conversion = Conversion("timm", "timm", RESNET, "resnet18", "resnet18", plain, asked="timm")
    check(conversion, tmp_path)
