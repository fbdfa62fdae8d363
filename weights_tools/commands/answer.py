"""What the commands share: printing an answer, reading arguments."""

from __future__ import annotations

import argparse
import json
from typing import Any

# Beside the code that knows them, which imports torch; a test compares.
PROJECTS = ("torchvision", "timm", "smp", "mmseg", "transformers")


def print_answer(answer: object) -> None:
    """Print a text, made safe for any terminal, or JSON with sorted keys."""
    from segnets.console import escape_controls  # imports torch; `--help` need not wait for it

    print(
        escape_controls(answer) if isinstance(answer, str) else json.dumps(answer, indent=2, sort_keys=True), flush=True
    )


def named_value(argument: str) -> tuple[str, Any]:
    """NAME=VALUE, the value in JSON or a bare word."""
    name, by, text = argument.partition("=")
    if not name or not by or not text:
        raise argparse.ArgumentTypeError(f"{argument}: expected NAME=VALUE, output_stride=16 say")
    try:
        return name, json.loads(text)
    except (ValueError, RecursionError):
        return name, text


def natural(argument: str) -> int:
    """A whole number of at least 1."""
    if not argument.isdecimal() or int(argument) < 1:
        raise argparse.ArgumentTypeError(f"{argument}: expected a whole number of at least 1")
    return int(argument)
