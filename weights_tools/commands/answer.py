"""What the commands share: printing an answer, and reading NAME=VALUE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def print_answer(answer: object) -> None:
    """Print a text, made safe for any terminal, or JSON with sorted keys."""
    from segnets.console import one_line  # imports torch; `--help` need not wait for it

    print(one_line(answer) if isinstance(answer, str) else json.dumps(answer, indent=2, sort_keys=True), flush=True)


def read_options(arguments: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, the value in JSON or a bare word. Raises WeightsError for anything else."""
    from segnets.errors import WeightsError

    chosen: dict[str, Any] = {}
    for argument in arguments:
        name, by, text = argument.partition("=")
        if not name or not by or not text:
            raise WeightsError(f"--option {argument}: expected NAME=VALUE, output_stride=16 say")
        try:
            chosen[name] = json.loads(text)
        except ValueError:
            chosen[name] = text
    return chosen
