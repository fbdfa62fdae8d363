"""Values of options: from texts and TOML to the option's type, and back."""

from __future__ import annotations

import json
import math
import os
import tomllib
import typing
from collections.abc import Iterable
from typing import Any


def parse_value(kind: Any, text: str) -> Any:
    """Return the value that a text such as "0.5" or "1, 2" stands for.

    Args:
        kind: Type of the option. It decides how to read the text, and is not checked.
        text: The text.
    """
    if kind is str and text[:1] not in ("'", '"'):
        return text
    several = typing.get_origin(kind) is tuple
    for candidate in (f"[{text}]", text) if several and not text.startswith("[") else (text, f"[{text}]"):
        try:
            return tomllib.loads(f"value = {candidate}")["value"]
        except (ValueError, RecursionError, KeyError):
            continue
    return [part.strip() for part in text.split(",")] if several else text


def convert_value(kind: Any, value: Any) -> Any:
    """Return a value in the type of an option, or None if it has another.

    Args:
        kind: Type of the option: bool, int, float, str, a tuple of these, or a union.
        value: The value, for example from a TOML file, in which tuples are lists.
    """
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if kind is float:
        return _finite(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if kind is str:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        return value if isinstance(value, str) and _is_unicode(value) else None
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is not tuple:  # a union: text or numbers
        return next((each for part in arguments if (each := convert_value(part, value)) is not None), None)
    if isinstance(value, str) or not isinstance(value, Iterable):
        return None
    parts = [convert_value(arguments[0], each) for each in value]
    fits = None not in parts and (Ellipsis in arguments or len(parts) == len(arguments))
    return tuple(parts) if fits else None


def _finite(value: int | float) -> float | None:
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 300 digits
        return None
    return number if math.isfinite(number) else None


def _is_unicode(text: str) -> bool:
    """Return whether a file can hold a text: not a file name in another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def describe_type(kind: Any) -> str:
    """Return a phrase for the type of an option."""
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        tuple[float, float]: "two numbers",
        tuple[str, ...]: "a list of texts",
        tuple[int, ...]: "a list of whole numbers",
    }.get(kind, "a text or a list of numbers")


def toml_value(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return repr(value)
