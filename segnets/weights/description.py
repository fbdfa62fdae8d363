"""The description inside a weights file: a model's config and card as one JSON text with sorted keys.

The text stands in the safetensors metadata under the one key `segnets`. One key and sorted, because the safetensors
library writes several keys in random order, and the same weights should give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeGuard

from segnets.card import ModelCard, ModelConfig
from segnets.errors import WeightsError
from segnets.preprocessing import Preprocessing

METADATA_KEY = "segnets"
FORMAT_VERSION = 1


def encode(config: ModelConfig, card: ModelCard) -> str:
    """The JSON text for a config and a card. Raises WeightsError for what JSON can't hold."""
    description = {
        "format": FORMAT_VERSION,
        "model": {"name": config.name, "options": dict(config.options)},
        "classes": list(card.classes),
        "palette": [list(colour) for colour in card.palette],
        "preprocessing": card.preprocessing.to_json(),
        "provenance": dict(card.provenance),
    }
    try:
        return json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"the description of {config.name} does not fit into JSON: {error}") from None


def decode(text: str, where: str) -> tuple[ModelConfig, ModelCard]:
    """The inverse of `encode`. `where` names the file in messages. Raises WeightsError for anything unexpected."""
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
        _expect(version == FORMAT_VERSION, "format")
        return _config(description["model"]), _card(description)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        reason = f"{type(error).__name__}: {error}"[:300]  # it may repeat what the file says, of any length
        raise WeightsError(f"{where}: its description is damaged ({reason}); convert the original again") from None


def listed(what: str, values: Any) -> tuple[Any, ...]:
    """The entries of a list that a user gave. Raises WeightsError for what is none, a single text among it."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise WeightsError(f"{what}={values!r}: expected a list with an entry for each")
    return tuple(values)


def check_card(card: ModelCard, num_classes: int | None) -> None:
    """Raise WeightsError for a card that could not be read back, or that speaks of another number of classes."""
    for i, name in enumerate(card.classes):
        if not is_class_name(name):
            raise WeightsError(f"classes[{i}]={name!r}: expected a printable text")
    for i, colour in enumerate(card.palette):
        if not is_colour(colour):
            raise WeightsError(f"palette[{i}]={colour!r}: expected three whole numbers 0..255 (red, green, blue)")
    if not isinstance(card.preprocessing, Preprocessing):
        raise WeightsError(f"preprocessing={card.preprocessing!r}: expected a segnets.Preprocessing")
    for what, count in (("class names", len(card.classes)), ("palette colours", len(card.palette))):
        if count and num_classes is not None and count != num_classes:
            raise WeightsError(f"{count} {what} for a model of {num_classes} classes; give one for each class id")


def _config(model: Any) -> ModelConfig:
    _expect(isinstance(model["name"], str) and isinstance(model["options"], dict), "model")
    return ModelConfig(model["name"], model["options"])


def _card(description: Any) -> ModelCard:
    classes, palette, provenance = description["classes"], description["palette"], description["provenance"]
    _expect(isinstance(classes, list) and all(is_class_name(name) for name in classes), "classes")
    _expect(isinstance(palette, list) and all(is_colour(colour) for colour in palette), "palette")
    _expect(isinstance(provenance, dict), "provenance")
    return ModelCard(
        classes=tuple(classes),
        palette=tuple((r, g, b) for r, g, b in palette),
        preprocessing=Preprocessing.from_json(description["preprocessing"]),
        provenance=provenance,
    )


def is_class_name(name: object) -> TypeGuard[str]:
    """Return whether a card can hold `name` as the name of a class: printable text."""
    return isinstance(name, str) and name.isprintable()


def is_colour(colour: object) -> bool:
    """Return whether a card can hold `colour` in its palette: three integers 0..255."""
    return (
        isinstance(colour, list | tuple)
        and len(colour) == 3
        and all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255 for value in colour)
    )


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"unexpected {what!r}")
