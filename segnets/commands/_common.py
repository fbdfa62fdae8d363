"""Shared code of subcommands: their declaration, and the default network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from segnets import shipped

Subparsers = argparse._SubParsersAction  # has no public name


def add_command(
    commands: Subparsers[Any],
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    summary: str,
    description: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Declare a subcommand.

    Args:
        commands: Subparsers of the program.
        name: Name of the subcommand.
        run: Function that executes the command and returns its exit status.
        summary: One line for the program's help.
        description: Paragraph for the subcommand's help.
        examples: Command lines, one per line.

    Returns:
        The parser of the subcommand.
    """
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{lines}",
        formatter_class=_Formatter,
    )
    parser.set_defaults(run=run)
    return parser


def shipped_network() -> str:
    """Return the path of the network shipped with segnets, and note on stderr that it is used."""
    print(f"segnets: {shipped.NOTICE}; --model FILE for yours", file=sys.stderr)
    return str(shipped.WEIGHTS)


class _Formatter(argparse.HelpFormatter):
    """Formatter that wraps the description and preserves the lines of the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return super()._fill_text(text, width, indent)
