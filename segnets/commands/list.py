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
    """Print the matching names; return 0 even if there are none."""
    from segnets.registry import list_models

    for name in list_models(options.pattern):
        print(name)
    return 0
