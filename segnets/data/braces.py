"""Brace notation of WebDataset for numbered shards: "train-{000000..000099}.tar"."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

MOST = 100_000  # texts
_MOST_BRACES = 100  # they are expanded recursively
_MOST_CHARACTERS = 100_000_000  # of all texts together
_LONELY = "has a brace without a partner"
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(-?\d{1,18}))?")


def expand_braces(text: str) -> list[str]:
    """Expand the braces in a text as shells do.

    Args:
        text: Text with any number of `{first..last}`, `{first..last..step}` and `{one,other}`, which may be nested.
            Numbers are padded with zeros to the width of the wider bound if a bound begins with 0.

    Returns:
        The texts in order; `text` alone if it has no braces.

    Raises:
        ValueError: If a brace has no partner, stands for nothing, or there are too many braces or texts.
    """
    if text.count("{") > _MOST_BRACES:
        raise ValueError(f"has more than {_MOST_BRACES} braces")
    texts: list[str] = []
    characters = 0
    for each in _expanded(text):
        texts.append(each)
        characters += len(each)
        if len(texts) > MOST or characters > _MOST_CHARACTERS:
            raise ValueError(f"stands for more than {MOST:,} names")
    return texts


def _expanded(text: str) -> Iterator[str]:
    before, brace, _ = text.partition("{")
    if "}" in before:
        raise ValueError(_LONELY)
    if not brace:
        yield text
        return
    inside, after = _parted(text[len(before) + 1 :])
    for value in _values(inside):
        for rest in _expanded(after):
            yield f"{before}{value}{rest}"


def _parted(text: str) -> tuple[list[str], str]:
    """Return what is between the commas up to the closing brace of an opened one, and the text after it."""
    depth, start = 0, 0
    parts: list[str] = []
    for place, letter in enumerate(text):
        if letter in ",}" and depth == 0:
            parts.append(text[start:place])
            start = place + 1
            if letter == "}":
                return parts, text[start:]
        depth += {"{": 1, "}": -1}.get(letter, 0)
    raise ValueError(_LONELY)


def _values(parts: list[str]) -> Iterator[str]:
    """Yield the values of a brace with one range, or several parts."""
    if len(parts) > 1:
        yield from itertools.chain.from_iterable(map(_expanded, parts))
        return
    numbers = _RANGE.fullmatch(parts[0])
    if numbers is None:
        raise ValueError("has a brace with neither a range {000..099} nor a list {a,b}")
    first, last = int(numbers[1]), int(numbers[2])
    step = abs(int(numbers[3] or 1)) or 1
    bounds = numbers[1], numbers[2]
    padded = any(bound.lstrip("-").startswith("0") and len(bound.lstrip("-")) > 1 for bound in bounds)
    width = max(map(len, bounds)) if padded else 0
    for number in range(first, last + 1, step) if first <= last else range(first, last - 1, -step):
        yield f"{number:0{width}d}"
