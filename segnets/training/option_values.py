"""Conversion of option values: from strings and TOML to the option's type, and back."""

from __future__ import annotations

import json
import math
import os
import tomllib
import typing
from collections.abc import Iterable
from typing import Any


def parse_value(kind: Any, text: str) -> Any:
    """Parse a string such as "0.5" or "1, 2" into a value.

    Args:
        kind: Type of the option. It decides how the string is parsed; the result is not checked against it.
        text: String to parse.

    Returns:
        The parsed value, or a string or a list of strings if it is not a TOML value.
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
    """Convert a value to the type of an option, or return None if it does not fit.

    Args:
        kind: Type of the option: bool, int, float, str, a tuple of these, or a union.
        value: Value, for example from a TOML file, where tuples are lists.
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
    if typing.get_origin(kind) is not tuple:  # a union: string or numbers
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
    """Return whether a string can be stored as UTF-8. File names in other encodings can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def describe_type(kind: Any) -> str:
    """Describe the type of an option, for messages."""
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        tuple[float, float]: "two numbers",
        tuple[str, ...]: "a list of strings",
        tuple[int, ...]: "a list of whole numbers",
    }.get(kind, "text or a list of numbers")


def toml_value(value: Any) -> str:
    """Format a value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return repr(value)
