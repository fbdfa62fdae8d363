"""`weights-tools inspect FILE`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from weights_tools.commands.answer import print_answer

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "inspect",
        help="say what a file holds, and whether it could be converted",
        description="Say what a file holds. Exit 0 if it could be converted, 1 if it would be refused.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="read the structure only, not the tensors")
    parser.add_argument("--key", help="which dictionary holds the weights, if there are several")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Return 1 for a file that would be refused."""
    from weights_tools import inspect

    report = inspect(options.file, key=options.key, data=not options.quick)
    print_answer(report.to_json() if options.json else str(report))
    return 0 if report.refused is None else 1
