"""`segnets list [PATTERN]`."""

from __future__ import annotations

import argparse
from typing import Any

from segnets.commands._common import Subparsers, add_command


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "list",
        run,
        summary="list the networks",
        description="List the names of the networks, one per line.",
        examples="""
        segnets list
        segnets list 'fcn_*'
        """,
    )
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern that the names must match"
    )


def run(options: argparse.Namespace) -> int:
    """Print the matching names; return 0.

    Raises:
        WeightsError: If no name matches.
    """
    from segnets.errors import WeightsError
    from segnets.registry import HEADS, list_models, nearest_models

    names = list_models(options.pattern)
    if not names:
        near = nearest_models("".join(c for c in options.pattern if c not in "*?[]").strip("_"))
        heads = ", ".join(head.name for head in HEADS)
        hint = f"Similar names: {', '.join(near)}. " if near else ""
        raise WeightsError(
            f"no network matches {options.pattern!r}. {hint}"
            f"Names are HEAD_BACKBONE; the heads are {heads}. `segnets list` lists all names"
        )
    for name in names:
        print(name)
    return 0
