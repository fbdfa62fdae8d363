"""Does a configuration speak of the network that the tensors are? The one beside them may be another file's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.registry import BACKBONES, MODELS
from weights_tools._text import printable
from weights_tools.recognise.config._facts import SourceConfig

_PLAIN: dict[str, JSON] = {"in_channels": 3, "stem": "plain", "backbone_stages": 4}


def contradiction(told: SourceConfig, config: ModelConfig) -> str:
    """Return how the network that a configuration describes differs from the one that was recognised; "" if it fits.

    Only what tensors show is compared, `told.expects`. What one of the two leaves open differs in nothing.
    """
    here = _facts(config)
    other = [
        f"{name}={_in_words(value)} (the tensors: {_in_words(here[name])})"
        for name, value in told.expects.items()
        if name in here and here[name] != value
    ]
    return ", ".join(other)


def _facts(config: ModelConfig) -> Mapping[str, JSON]:
    """What the tensors of a network show, as far as it is one that segnets has."""
    if config.name in MODELS:
        builder = MODELS[config.name]
        try:
            options: Mapping[str, Any] = builder.resolve(config.options)
        except (TypeError, ValueError) as error:
            raise WeightsError(str(error)) from None
        facts = {**_PLAIN, **options, "head": builder.head.name, "backbone": builder.backbone.name}
    elif config.name in BACKBONES:
        facts = {**_PLAIN, **config.options, "backbone": config.name}
        # A configuration of the whole network says the classes of a head that a backbone alone has lost.
        if facts.get("num_classes") == 0:
            del facts["num_classes"]
    else:
        return {}
    if not facts["backbone"].startswith("resne"):
        del facts["stem"]
    return facts


def _in_words(value: JSON) -> str:
    return printable(value, quote=False) if isinstance(value, str) else str(value)
