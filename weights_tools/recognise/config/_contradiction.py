"""Check that a config describes the network of the tensors: config.json may belong to another file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.options import DEFAULTS
from segnets.registry import BACKBONES, MODELS
from weights_tools._text import printable
from weights_tools.recognise.config._facts import SourceConfig

# Options that a classifier does not record if they have their defaults.
_UNRECORDED: dict[str, JSON] = {name: DEFAULTS[name] for name in ("in_channels", "stem", "backbone_stages")}


def find_contradiction(source_config: SourceConfig, config: ModelConfig) -> str:
    """Compare what the tensors must show if a config is theirs with what they show.

    Args:
        source_config: Config of the project. Only `expects` is compared.
        config: Network that was recognised by the tensors.

    Returns:
        The differences for a message, or "" if there are none. A fact that one of the two leaves open is none.
    """
    shown = _visible_facts(config)
    differences = [
        f"{name}={_format(value)} (the tensors: {_format(shown[name])})"
        for name, value in source_config.expects.items()
        if name in shown and shown[name] != value
    ]
    return ", ".join(differences)


def _visible_facts(config: ModelConfig) -> Mapping[str, JSON]:
    """Return what the tensors of a network show, if segnets has the network."""
    if config.name in MODELS:
        builder = MODELS[config.name]
        try:
            options: Mapping[str, Any] = builder.resolve(config.options)
        except (TypeError, ValueError) as error:
            raise WeightsError(str(error)) from None
        facts = {**_UNRECORDED, **options, "head": builder.head.name, "backbone": builder.backbone.name}
    elif config.name in BACKBONES:
        facts = {**_UNRECORDED, **config.options, "backbone": config.name}
        # The config of a whole network has the classes of a head that a backbone alone has lost.
        if facts.get("num_classes") == 0:
            del facts["num_classes"]
    else:
        return {}
    if not facts["backbone"].startswith("resne"):
        del facts["stem"]
    return facts


def _format(value: JSON) -> str:
    return printable(value, quote=False) if isinstance(value, str) else str(value)
