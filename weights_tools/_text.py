"""Check names that come from files, and make them printable for messages."""

from __future__ import annotations

from collections.abc import Iterable

from segnets.errors import WeightsError

MAX_NAME = 400
_LISTED = 10


def check_name(name: object) -> str:
    """Return a tensor's name; raise WeightsError if some file format or tool could not represent the name."""
    if not isinstance(name, str):
        raise WeightsError("a tensor has a name that is not a string")
    if len(name) > MAX_NAME:
        raise WeightsError(f"a tensor has a name of {len(name):,} characters (at most {MAX_NAME} are accepted)")
    bad = not name or not name.isprintable() or "/" in name or "\\" in name or ".." in name or name == "__metadata__"
    if bad or name.startswith(".") or name.endswith("."):
        raise WeightsError(
            f"the tensor name {printable(name)} is not accepted. Names look like 'backbone.conv1.weight'."
        )
    return name


def printable(name: object, *, quote: bool = True) -> str:
    """Return a shortened, printable form of a name from a file."""
    if not isinstance(name, str):
        return str(name) if type(name) is int else "a key that is not a string"
    short = name if len(name) <= 80 else f"{name[:77]}..."
    safe = (
        short
        if short.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in short)
    )
    return f"'{safe}'" if quote else safe


def join_names(names: Iterable[str], most: int = _LISTED) -> str:
    """Join at most `most` names with commas and append the number of omitted ones."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
