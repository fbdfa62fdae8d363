"""A small JSON file beside the weights: an object, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

from segnets.errors import WeightsError
from weights_tools.reader.source import Source
from weights_tools.reader.values import Value

MAX_BYTES = 4 << 20  # a configuration with the names of 20,000 classes has one million


class UnreadableFileError(ValueError):
    """Why a file is no JSON object. The reason has the file for its subject ("it is no JSON")."""


def read_object(path: Path) -> dict[str, Value] | None:
    """Return the object in a file, or None where there is no such file. Raises UnreadableFileError."""
    try:
        if not path.is_file():
            return None
        with Source(path) as source:
            if source.size > MAX_BYTES:
                raise UnreadableFileError(f"it has {source.size:,} bytes, more than any configuration")
            data = bytes(source.view(0, source.size))
    except WeightsError as error:
        raise UnreadableFileError(str(error)) from None
    except OSError:  # a folder that may not be searched
        return None
    try:
        value = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UnreadableFileError("it is no JSON") from None
    if not isinstance(value, dict):
        raise UnreadableFileError("it is no JSON object")
    return value


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key that occurs twice")
    return made


def _refuse_constant(name: str) -> Value:
    raise ValueError(f"{name} is no JSON")
