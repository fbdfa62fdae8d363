"""Class names and class maps from arguments or hand-written files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

from segnets.card import is_class_name
from segnets.errors import WeightsError
from weights_tools._text import printable
from weights_tools.reader import Source, prefix_errors
from weights_tools.reader.strict_json import parse_object

_MAX_FILE = 1 << 20
_MAX_NAME = 200
# New class -> class of the source, by name or number; None for a newly initialised class.
ClassMap: TypeAlias = Mapping[str, "str | int | None"]


def read_class_names(classes: Sequence[str] | str | os.PathLike[str] | None) -> tuple[str, ...] | None:
    """Return class names given as a sequence, or as a text file with one name per line.

    Raises:
        WeightsError: If the file can't be read, or a name is blank, too long or not printable.
    """
    if classes is None:
        return None
    if isinstance(classes, str | os.PathLike):
        text = _read_small(Path(classes), "a list of class names has one name per line")
        names, prefix = tuple(line.strip() for line in text.rstrip().splitlines()), f"{classes}: "
        if not names:
            raise WeightsError(f"{prefix}the file is empty; a list of class names has one name per line")
    else:
        names, prefix = tuple(classes), ""
    for number, name in enumerate(names, start=1):
        if not _is_usable_name(name):
            raise WeightsError(
                f"{prefix}class name {number} is blank, not printable or longer than {_MAX_NAME} characters. "
                "Give one name per line."
            )
    return names


def read_class_map(source: ClassMap | str | os.PathLike[str]) -> ClassMap:
    """Return a class map given as a mapping or as a JSON file.

    Raises:
        WeightsError: If the file can't be read, the map is empty, or a class is not usable.
    """
    mapping: Mapping[str, Any]
    if isinstance(source, Mapping):
        mapping, where = source, "remap_classes"
    else:
        where = str(source)
        text = _read_small(Path(source), 'a class map is {"new class": "class of the source", ...}')
        with prefix_errors(source):
            mapping = parse_object(text.encode(), "class map")
    if not mapping:
        raise WeightsError(f'{where}: the class map is empty; expected {{"new class": "class of the source, or null"}}')
    checked: dict[str, str | int | None] = {}
    for new, old in mapping.items():
        if not _is_usable_name(new):
            raise WeightsError(
                f"{where}: the class name {printable(new)} is blank, not printable or longer than {_MAX_NAME} "
                "characters"
            )
        if old is not None and (isinstance(old, bool) or not isinstance(old, str | int)):
            raise WeightsError(
                f"{where}: {printable(new)} must map to a class of the source, by name or number, or null"
            )
        checked[new] = old
    return checked


def rows_of(mapping: ClassMap, classes: Sequence[str], count: int) -> list[int | None]:
    """Resolve each new class to a row of the source's last layers.

    Args:
        mapping: New class -> class of the source, by name or number, or None.
        classes: Names of the source's classes; empty if unknown.
        count: Number of the source's classes.

    Returns:
        For each new class its row in the source, or None for a newly initialised one.

    Raises:
        WeightsError: If the source has no such class, or several with that name.
    """
    return [_row(old, classes, count) for old in mapping.values()]


def _row(old: str | int | None, classes: Sequence[str], count: int) -> int | None:
    if old is None:
        return None
    if isinstance(old, int):
        if not 0 <= old < count:
            raise WeightsError(f"class map: the source has no class {old}; its classes are 0 to {count - 1}")
        return old
    if not classes:
        raise WeightsError("class map: the source has no class names. Pass --classes, or use numbers.")
    if old not in classes:
        near = get_close_matches(old, classes, n=1)
        hint = f". Did you mean {printable(near[0])}?" if near else ""
        raise WeightsError(f"class map: the source has no class {printable(old)}{hint}")
    if list(classes).count(old) > 1:
        raise WeightsError(f"class map: several classes of the source are named {printable(old)}. Use their numbers.")
    return list(classes).index(old)


def _is_usable_name(name: object) -> bool:
    """Return whether a name can be stored (`is_class_name`) and is neither blank nor oversized."""
    return is_class_name(name) and bool(name.strip()) and len(name) <= _MAX_NAME


def _read_small(path: Path, form: str) -> str:
    with prefix_errors(path), Source(path) as source:
        if source.size > _MAX_FILE:
            raise WeightsError(f"the file is too large ({source.size:,} bytes; at most {_MAX_FILE:,}); {form}")
        try:
            return bytes(source.view(0, source.size)).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise WeightsError(f"the file is not UTF-8 text; {form}") from None
