"""What LibTorch says went wrong, in one line."""

from __future__ import annotations

_MAX_LENGTH = 300


def reason_of(error: BaseException) -> str:
    """The first line of the error's text, at most 300 characters.

    What follows it is source code, with the paths of the machine that compiled it.
    """
    lines = (line.strip() for line in str(error).splitlines())
    line = next((line for line in lines if line), type(error).__name__)
    return line if len(line) <= _MAX_LENGTH else line[: _MAX_LENGTH - 3] + "..."
