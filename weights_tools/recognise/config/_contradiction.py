"""Check that a config describes the same network as the tensors, because config.json may belong to another file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.options import DEFAULTS
from segnets.registry import BACKBONES, MODELS
from weights_tools._text import printable
from weights_tools.recognise.config._facts import SourceConfig

# Options that a classifier only records if they differ from the defaults.
_UNRECORDED: dict[str, JSON] = {name: DEFAULTS[name] for name in ("in_channels", "stem", "backbone_stages")}


def find_contradiction(source_config: SourceConfig, config: ModelConfig) -> str:
    """Compare the facts that a config expects of the tensors with those that the tensors show.

    Args:
        source_config: Config of the project. Only its `expects` is compared.
        config: Network recognised from the tensors.

    Returns:
        The differences for a message, or "" if there are none. A fact that one of the two does not determine is not a
        difference.
    """
    shown = _visible_facts(config)
    differences = [
        f"{name}={_format(value)} (the tensors: {_format(shown[name])})"
        for name, value in source_config.expects.items()
        if name in shown and shown[name] != value
    ]
    return ", ".join(differences)


def _visible_facts(config: ModelConfig) -> Mapping[str, JSON]:
    """Return the facts that a network's tensors show, if segnets has the network."""
    if config.name in MODELS:
        builder = MODELS[config.name]
        try:
            options: Mapping[str, Any] = builder.resolve(config.options)
        except (TypeError, ValueError) as error:
            raise WeightsError(str(error)) from None
        facts = {**_UNRECORDED, **options, "head": builder.head.name, "backbone": builder.backbone.name}
    elif config.name in BACKBONES:
        facts = {**_UNRECORDED, **config.options, "backbone": config.name}
        # The config of a whole network counts the classes of its head, which a backbone alone no longer has.
        if facts.get("num_classes") == 0:
            del facts["num_classes"]
    else:
        return {}
    if not facts["backbone"].startswith("resne"):
        del facts["stem"]
    return facts


def _format(value: JSON) -> str:
    return printable(value, quote=False) if isinstance(value, str) else str(value)
