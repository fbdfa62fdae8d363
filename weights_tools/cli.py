"""The command `weights-tools`: results on stdout, everything else on stderr; exit status 0, 1 or 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from segnets import __version__
from segnets.console import run_command
from weights_tools.commands import compare, convert, export, fetch, inspect

_PROGRAM = "weights-tools"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 on success, 1 for a refused file, 2 for a usage error."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: int(options.run(options)), _PROGRAM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Inspect and convert checkpoints from other projects. Nothing in a file is ever executed.",
        epilog="`weights-tools COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for command in (inspect, convert, compare, export, fetch):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
