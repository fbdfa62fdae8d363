"""Rename tensors with tables of module names, one to one in both directions.

An entry "decode_head.convs.{}.conv": "classifier.convs.{}.0" renames the module and everything in it. Each {} stands
for one number, which is the same on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

# Name of a module in another project -> its name in segnets. The first matching entry wins.
KeyMap = Mapping[str, str]


def rename(names: Iterable[str], key_map: KeyMap) -> tuple[dict[str, str], list[str]]:
    """Rename the tensors of another project.

    Args:
        names: Names of the tensors in the other project.
        key_map: Modules of the other project and of segnets.

    Returns:
        The project's name for each of our names, and the names that no entry matches.

    Raises:
        ValueError: If two tensors would get one name: a mistake in the table, not in a file.
    """
    renamed: dict[str, str] = {}
    unknown: list[str] = []
    for theirs in names:
        ours = _first(theirs, key_map.items())
        if ours is None:
            unknown.append(theirs)
        elif ours in renamed:
            raise ValueError(f"{renamed[ours]} and {theirs} both become {ours}")
        else:
            renamed[ours] = theirs
    return renamed, unknown


def rename_back(names: Iterable[str], key_map: KeyMap) -> dict[str, str] | None:
    """Return the project's name for each of our names, or None if the table has no entry for one of them."""
    renamed: dict[str, str] = {}
    for ours in names:
        candidates = (_renamed(ours, new, old) for old, new in key_map.items())
        # An inverted entry may give a name that an earlier entry would rename differently.
        theirs = next((name for name in candidates if name is not None and _first(name, key_map.items()) == ours), None)
        if theirs is None:
            return None
        renamed[ours] = theirs
    return renamed


def is_in(name: str, modules: Iterable[str]) -> bool:
    """Return whether a tensor belongs to one of these modules, given in the notation of a `KeyMap`."""
    return any(_pattern(module).match(name) for module in modules)


def _first(name: str, entries: Iterable[tuple[str, str]]) -> str | None:
    return next((new for old, to in entries if (new := _renamed(name, old, to)) is not None), None)


def _renamed(name: str, old: str, new: str) -> str | None:
    match = _pattern(old).match(name)
    return None if match is None else new.format(*match.groups()) + name[match.end() :]


@cache
def _pattern(module: str) -> re.Pattern[str]:
    numbers = re.escape(module).replace(r"\{\}", r"(\d{1,4})")
    return re.compile(rf"{numbers}(?=\.|$)")
