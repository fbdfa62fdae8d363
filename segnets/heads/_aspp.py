"""ASPP options shared by the heads of DeepLabV3 and DeepLabV3+."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segnets.card import JSON
from segnets.layers import NormLayer, norm_layer

# Rates by output stride. Doubling the resolution doubles the rates, for the same field of view: section 4 of the
# DeepLabV3 paper.
_ATROUS_RATES = {8: [12, 24, 36], 16: [6, 12, 18], 32: [3, 6, 9]}


def aspp_defaults(output_stride: int, *, separable: bool) -> dict[str, JSON]:
    """Return the default options of ASPP on a backbone with this output stride."""
    return {
        "atrous_rates": list(_ATROUS_RATES[output_stride]),
        "aspp_separable": separable,
        "pool_norm": True,
        "aspp_norm_eps": None,
    }


def aspp_arguments(options: Mapping[str, Any], head_norm: NormLayer) -> dict[str, Any]:
    """Convert a builder's options to the ASPP arguments of both heads.

    Args:
        options: Resolved options of the builder.
        head_norm: Factory of the head's norms.

    Returns:
        Keyword arguments "channels", "separable", "pool_norm", "dropout" and "aspp_norm_layer".
    """
    eps = options.get("aspp_norm_eps")
    return {
        "channels": options["head_channels"],
        "separable": options["aspp_separable"],
        "pool_norm": options["pool_norm"],
        "dropout": options["head_dropout"],
        "aspp_norm_layer": head_norm if eps is None else norm_layer(options["head_norm_layer"], eps=eps),
    }
