"""The command `weights-tools`. Results on stdout, everything else on stderr; exit 0, 1 or 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from weights_tools.commands import compare, convert, export, fetch, inspect

_PROGRAM = "weights-tools"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if it worked, 1 for a file that is or would be refused, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    from segnets.console import run_command  # imports torch, which takes a second; `--help` need not wait for it

    return run_command(lambda: int(options.run(options)), _PROGRAM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Foreign checkpoints: look at them, convert them with proof. Nothing of a file is ever executed.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (inspect, convert, compare, export, fetch):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
