"""Read a small JSON file next to the weights."""

from __future__ import annotations

import json
from pathlib import Path

from segnets.errors import WeightsError
from weights_tools.reader.source import Source
from weights_tools.reader.values import Value

MAX_BYTES = 4 << 20  # a config with the names of 20,000 classes has one million


class UnreadableFileError(ValueError):
    """A file that is not a JSON object; the message is the reason without the file's name."""


def read_object(path: Path) -> dict[str, Value] | None:
    """Return the object in a JSON file, or None if there is no such file.

    Raises:
        UnreadableFileError: If the file is too large, cannot be read or is not a JSON object.
    """
    try:
        if not path.is_file():
            return None
        with Source(path) as source:
            if source.size > MAX_BYTES:
                raise UnreadableFileError(f"too large for a config ({source.size:,} bytes)")
            data = bytes(source.view(0, source.size))
    except WeightsError as error:
        raise UnreadableFileError(str(error)) from None
    except OSError:  # a folder without search permission
        return None
    try:
        value = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise UnreadableFileError("not JSON") from None
    if not isinstance(value, dict):
        raise UnreadableFileError("not a JSON object")
    return value


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("duplicate key")
    return values


def _refuse_constant(name: str) -> Value:
    raise ValueError(f"{name} is not JSON")
