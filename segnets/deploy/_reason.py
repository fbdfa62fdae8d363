"""Shorten error messages of other libraries to one line."""

from __future__ import annotations

_MAX_LENGTH = 300


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's text, at most 300 characters.

    The lines after it are source code, with paths of the machine that compiled it.
    """
    lines = (line.strip() for line in str(error).splitlines())
    line = next((line for line in lines if line), type(error).__name__)
    return line if len(line) <= _MAX_LENGTH else line[: _MAX_LENGTH - 3] + "..."
