"""segnets' own networks as plain state dicts: every head, and every option that the weights do not show."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import segnets
from tests.peers.compare import NUM_CLASSES, State, Theirs, randomised
from tests.peers.conversions import Conversion, check
from weights_tools.recognise.layouts.network_table import NetworkTable
from weights_tools.recognise.layouts.tables import SEGNETS

PSPNET, PLUS, PLUS_VAINF, FCN_MMSEG, DEEPLABV3, DEEPLABV3_MMSEG, LRASPP, FCN = SEGNETS


def network(model: str, options: dict[str, Any]) -> Theirs:
    module = segnets.create_model(model, num_classes=NUM_CLASSES, **options)
    randomised(module, gain=0.93 if "mobilenet" in model else 0.6, within="backbone.")

    def run(x: Tensor) -> State:
        return dict(module(x))

    return Theirs(module, run, {})


def case(
    origin: NetworkTable, model: str, shown: dict[str, Any] | None = None, /, layout: str = "segnets", **said: Any
) -> Conversion:
    """Return a conversion; `shown` are options that the weights show, `said` are the others."""
    text = ", ".join(f"{name}={value!r}" for name, value in {**(shown or {}), **said}.items())
    theirs = partial(network, model, {**(shown or {}), **said})
    asked = "auto" if origin.unique else "segnets"
    return Conversion("", layout, origin, f"{model}({text})", model, theirs, options=said, asked=asked)


CONVERSIONS = [
    case(PSPNET, "pspnet_resnet18"),
    case(PSPNET, "pspnet_resnet50", {"stem": "deep", "aux_loss": True}, align_corners=True, output_stride=16),
    case(PLUS, "deeplabv3plus_mobilenet_v3_large"),
    case(PLUS, "deeplabv3plus_resnet18", {"in_channels": 4}, norm_eps=1e-3, first_block_dilation="same"),
    case(PLUS_VAINF, "deeplabv3plus_resnet18", {"head_variant": "vainf"}, output_stride=8),
    case(FCN_MMSEG, "fcn_resnet18", {"head_variant": "mmseg"}, basic_block_dilation="first"),
    case(DEEPLABV3, "deeplabv3_resnet18", output_stride=16),
    case(DEEPLABV3, "deeplabv3_resnet34", {"aspp_separable": True, "pool_norm": False}, atrous_rates=[2, 4, 6]),
    case(DEEPLABV3, "deeplabv3_mobilenet_v3_small"),
    case(DEEPLABV3_MMSEG, "deeplabv3_resnet18", {"head_variant": "mmseg"}, head_norm_eps=1e-3),
    case(LRASPP, "lraspp_mobilenet_v3_small"),
    case(LRASPP, "lraspp_resnet18", {"head_channels": 64}, output_stride=32),
    case(FCN, "fcn_resnet18", {"downsample": "average"}, norm_layer="group", head_norm_layer="group"),
    case(FCN, "fcn_mobilenet_v3_large", {"aux_loss": True}, output_stride=8),
]


@pytest.mark.parametrize("conversion", CONVERSIONS, ids=str)
def test_the_converted_network_computes_the_same(conversion: Conversion, tmp_path: Path) -> None:
    check(conversion, tmp_path)
