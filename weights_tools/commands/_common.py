"""Helpers shared by the commands: print results and parse arguments."""

from __future__ import annotations

import argparse
import json
from typing import Any

from segnets.resize_rules import parse_resize

Subparsers = argparse._SubParsersAction  # has no public name

# Repeated here because weights_tools.check.peers imports torch, which would slow down `--help`. A test compares.
PROJECTS = ("torchvision", "timm", "smp", "mmseg", "transformers")


def print_result(answer: object) -> None:
    """Print a string with control characters escaped, or anything else as JSON with sorted keys."""
    from segnets.console import escape_controls  # imports torch, which would slow down `--help`

    print(
        escape_controls(answer) if isinstance(answer, str) else json.dumps(answer, indent=2, sort_keys=True), flush=True
    )


def named_value(argument: str) -> tuple[str, Any]:
    """Parse NAME=VALUE, where the value is JSON or a bare word."""
    name, by, text = argument.partition("=")
    if not name or not by or not text:
        raise argparse.ArgumentTypeError(f"{argument}: expected NAME=VALUE, for example output_stride=16")
    try:
        return name, json.loads(text)
    except (ValueError, RecursionError):
        return name, text


def positive_int(argument: str) -> int:
    """Parse an integer of at least 1."""
    if not argument.isdecimal() or int(argument) < 1:
        raise argparse.ArgumentTypeError(f"{argument}: expected an integer of at least 1")
    return int(argument)


def resize_rule(argument: str) -> dict[str, Any]:
    """Parse 520, 480x640, x2 or none into fields of a `segnets.Preprocessing`."""
    try:
        return parse_resize(argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{argument[:40]!r}: {error}") from None


def numbers(argument: str) -> tuple[float, ...]:
    """Parse numbers separated by commas."""
    from segnets.preprocessing import parse_numbers  # imports torch, which would slow down `--help`

    try:
        return parse_numbers(argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{argument[:40]!r}: {error}") from None
