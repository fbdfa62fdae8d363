"""`weights-tools inspect FILE`."""

from __future__ import annotations

import argparse
from typing import Any

from weights_tools.commands._common import Subparsers, print_result


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "inspect",
        help="report what a file holds and whether it can be converted",
        description="Report what a file holds. Exit status: 0 if the file can be converted, 1 if it would be refused.",
    )
    parser.add_argument("file", metavar="FILE", help="a checkpoint")
    parser.add_argument("--quick", action="store_true", help="read the structure only, not the tensors")
    parser.add_argument("--key", help="dictionary that holds the weights, if the file has several")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report; return 1 for a file that would be refused, else 0."""
    from weights_tools import inspect

    report = inspect(options.file, key=options.key, data=not options.quick)
    print_result(report.to_json() if options.json else str(report))
    return 0 if report.refused is None else 1
