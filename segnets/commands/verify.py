"""`segnets verify FILE`."""

from __future__ import annotations

import argparse
from typing import Any

from segnets.commands._common import Subparsers, add_command


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "verify",
        run,
        summary="check that an exported file computes the recorded output",
        description="Run an exported file on its golden input and compare the output with the recorded one. Exit "
        "status 1 if they differ. An exported file is a program: verify only files that you trust.",
        examples="""
        segnets verify model.ts
        segnets verify model.ts --against weights.safetensors
        """,
    )
    parser.add_argument("file", metavar="FILE", help="exported file, which will be executed")
    parser.add_argument(
        "--against",
        metavar="WEIGHTS",
        help="also compare with the network of this weights file (.safetensors) at several sizes",
    )


def run(options: argparse.Namespace) -> int:
    """Print the report; return 0 if the file passed and 1 if not."""
    from segnets.deploy import verify
    from segnets.weights import load

    report = verify(options.file, against=load(options.against) if options.against else None)
    print(report)
    return 0 if report.passed else 1
