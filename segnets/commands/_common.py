"""Declare a subcommand in the form that all of them share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

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
        name: Word on the command line.
        run: Function that executes the command and returns its exit status.
        summary: Line in the program's own help.
        description: Paragraph in the help of the command.
        examples: Command lines, one a line.

    Returns:
        The parser, to add arguments to.
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


class _Formatter(argparse.HelpFormatter):
    """Formatter that wraps the description and keeps the lines of the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        return super()._fill_text(text, width, indent)
