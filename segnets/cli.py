"""The command `segnets`: results on stdout, everything else on stderr; exit status 0, 1 or 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from segnets import __version__
from segnets.commands import check_data, evaluate, export, info, join, list, predict, train, verify  # noqa: A004
from segnets.console import run_command

_PROGRAM = "segnets"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 on success, 1 for bad input, 2 for a usage error."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: int(options.run(options)), _PROGRAM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Classic segmentation networks: segment images, train, evaluate, and export for C++ and Python.",
        epilog="`segnets COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for command in (list, info, predict, check_data, train, evaluate, export, verify, join):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
