"""Encode and decode the description in a weights file: config and card of a model as JSON with sorted keys.

The text is stored in the safetensors metadata under the single key `segnets`. The safetensors library writes several
keys in random order, but the same weights should give the same bytes.
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
    """Return the JSON text for a config and a card.

    Raises:
        WeightsError: If JSON cannot represent a value.
    """
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
    """Decode the text that `encode` made.

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
        _expect(version == FORMAT_VERSION, "format")
        return _config(description["model"]), _card(description)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        reason = f"{type(error).__name__}: {error}"[:300]  # it may repeat what the file says, of any length
        raise WeightsError(f"{where}: its description is damaged ({reason}); convert the original again") from None


def as_tuple(what: str, values: Any) -> tuple[Any, ...]:
    """Return the entries of a list that the caller gave.

    Raises:
        WeightsError: If `values` is not iterable, or a single string.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise WeightsError(f"{what}={values!r}: expected a list with an entry for each")
    return tuple(values)


def check_card(card: ModelCard, num_classes: int | None) -> None:
    """Check that a card can be written and read back.

    Args:
        card: Card to check.
        num_classes: Number of classes of the model, or None to leave the number of names and colours unchecked.

    Raises:
        WeightsError: If an entry has a wrong type or range, or the number of classes differs.
    """
    for i, name in enumerate(card.classes):
        if not is_class_name(name):
            raise WeightsError(f"classes[{i}]={name!r}: expected a printable string")
    for i, colour in enumerate(card.palette):
        if not is_colour(colour):
            raise WeightsError(f"palette[{i}]={colour!r}: expected three integers 0..255 (red, green, blue)")
    if not isinstance(card.preprocessing, Preprocessing):
        raise WeightsError(f"preprocessing={card.preprocessing!r}: expected a segnets.Preprocessing")
    for what, count in (("class names", len(card.classes)), ("palette colours", len(card.palette))):
        if count and num_classes is not None and count != num_classes:
            raise WeightsError(f"{count} {what} for a model of {num_classes} classes. Give one for each class id.")


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
