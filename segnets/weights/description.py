"""Encode and decode the description in a weights file: config and card of a model as JSON with sorted keys.

The text is stored in the safetensors metadata under the single key `segnets`. The safetensors library writes several
keys in random order, but the same weights should give the same bytes.
"""

from __future__ import annotations

import json
from typing import Any

from segnets.card import Decoding, ModelCard, ModelConfig, check_card
from segnets.errors import WeightsError
from segnets.preprocessing import Preprocessing

METADATA_KEY = "segnets"
FORMAT_VERSION = 2  # the newest; a file states the oldest that can hold its preprocessing


def encode(config: ModelConfig, card: ModelCard) -> str:
    """Return the JSON text for a config and a card.

    Raises:
        WeightsError: If JSON cannot represent a value.
    """
    description: dict[str, object] = {
        "format": card.preprocessing.format_version,
        "model": {"name": config.name, "options": dict(config.options)},
        "classes": list(card.classes),
        "palette": [list(colour) for colour in card.palette],
        "preprocessing": card.preprocessing.to_json(),
        "provenance": dict(card.provenance),
    }
    if card.decoding is not None:
        description["decoding"] = card.decoding.to_json()
    try:
        return json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the description of {config.name} can't be encoded as JSON: {error}") from None


def decode(text: str, where: str) -> tuple[ModelConfig, ModelCard]:
    """Decode the text from `encode`.

    Args:
        text: The JSON text.
        where: Name of the file in messages.

    Raises:
        WeightsError: If the text is not a description that this version can read.
    """
    try:
        description = json.loads(text)
    except (ValueError, RecursionError):
        raise WeightsError(
            f"{where}: its description is not JSON; the file is damaged or not made by segnets"
        ) from None
    try:
        version = description["format"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise WeightsError(
                f"{where}: was written in format {version} by a newer segnets (this one reads up to {FORMAT_VERSION}); "
                "update segnets"
            )
        _expect(version in range(1, FORMAT_VERSION + 1), "format")
        return _config(description["model"]), _card(description)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        reason = f"{type(error).__name__}: {error}"[:300]  # it may quote text from the file of any length
        raise WeightsError(f"{where}: its description is damaged ({reason}); convert the original again") from None


def _config(model: Any) -> ModelConfig:
    _expect(isinstance(model["name"], str) and isinstance(model["options"], dict), "model")
    return ModelConfig(model["name"], model["options"])


def _card(description: Any) -> ModelCard:
    classes, palette, provenance = description["classes"], description["palette"], description["provenance"]
    _expect(isinstance(classes, list), "classes")
    _expect(isinstance(palette, list), "palette")
    _expect(isinstance(provenance, dict), "provenance")
    card = ModelCard(
        classes=tuple(classes),
        palette=tuple(tuple(colour) if isinstance(colour, list) else colour for colour in palette),
        preprocessing=Preprocessing.from_json(description["preprocessing"]),
        provenance=provenance,
        decoding=Decoding.from_json(description["decoding"]) if "decoding" in description else None,
    )
    check_card(card, None)
    return card


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"unexpected {what!r}")
