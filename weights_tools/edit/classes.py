"""Class names and maps of classes, from the files that people write by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from segnets.errors import WeightsError
from weights_tools._text import printable
from weights_tools.reader import Source, prefix_errors
from weights_tools.reader.strict_json import parse_object

_MAX_FILE = 1 << 20
_MAX_NAME = 200
# New class -> the class of before, by its name or number, or None for one that is new.
ClassMap = Mapping[str, "str | int | None"]


def read_class_names(classes: Sequence[str] | str | os.PathLike[str] | None) -> tuple[str, ...] | None:
    """The names of the classes, given or read from a text file with one per line; None if there are none.

    Raises WeightsError for a file that can't be read, and for names that are no short, printable texts.
    """
    if classes is None:
        return None
    if isinstance(classes, str | os.PathLike):
        text = _read_small(Path(classes), "a list of class names", "a list of class names has one name per line")
        names, where = tuple(line.strip() for line in text.rstrip().splitlines()), f"{classes}: "
        if not names:
            raise WeightsError(f"{where}it is empty; a list of class names has one name per line")
    else:
        names, where = tuple(classes), ""
    for number, name in enumerate(names, start=1):
        if not _is_class_name(name):
            raise WeightsError(
                f"{where}class name {number} is empty, too long or not printable; one name per line is needed"
            )
    return names


def read_class_map(source: ClassMap | str | os.PathLike[str]) -> ClassMap:
    """A map of classes, from a JSON file or as it is given. Raises WeightsError for anything else."""
    mapping: Mapping[str, Any]
    if isinstance(source, Mapping):
        mapping, where = source, "remap_classes"
    else:
        where = str(source)
        text = _read_small(Path(source), "a map of classes", 'it holds {"new class": "class of before", ...}')
        with prefix_errors(source):
            mapping = parse_object(text.encode(), "map of classes")
    if not mapping:
        raise WeightsError(f'{where}: it is empty; {{"new class": "class of before, or null"}} was expected')
    checked: dict[str, str | int | None] = {}
    for new, old in mapping.items():
        if not _is_class_name(new):
            raise WeightsError(f"{where}: the class name {printable(new)} is empty, too long or not printable")
        if old is not None and (isinstance(old, bool) or not isinstance(old, str | int)):
            raise WeightsError(f"{where}: {printable(new)} must be a class of before, by name or number, or null")
        checked[new] = old
    return checked


def rows_of(mapping: ClassMap, classes: Sequence[str], count: int) -> list[int | None]:
    """The row of before for each new class, or None for a fresh one.

    classes: the names of before, or empty; count: how many there are.
    Raises WeightsError for a class that there is not, with the nearest name.
    """
    return [_row(old, classes, count) for old in mapping.values()]


def _row(old: str | int | None, classes: Sequence[str], count: int) -> int | None:
    if old is None:
        return None
    if isinstance(old, int):
        if not 0 <= old < count:
            raise WeightsError(f"the map of classes: there is no class {old}; its classes are 0 to {count - 1}")
        return old
    if not classes:
        raise WeightsError(
            "the map of classes: nobody said what the classes are called; name them with --classes, or use numbers"
        )
    if old not in classes:
        near = get_close_matches(old, classes, n=1)
        hint = f"; did you mean {printable(near[0])}?" if near else ""
        raise WeightsError(f"the map of classes: it has no class {printable(old)}{hint}")
    if list(classes).count(old) > 1:
        raise WeightsError(f"the map of classes: several classes are called {printable(old)}; use their numbers")
    return list(classes).index(old)


def _is_class_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip()) and len(name) <= _MAX_NAME and name.isprintable()


def _read_small(path: Path, what: str, form: str) -> str:
    with prefix_errors(path), Source(path) as source:
        if source.size > _MAX_FILE:
            raise WeightsError(f"it is too large for {what}")
        try:
            return bytes(source.view(0, source.size)).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise WeightsError(f"it is no UTF-8 text; {form}") from None
