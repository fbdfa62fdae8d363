"""Entry point of the command `segnets`, also as `python -m segnets`."""

import sys

from segnets.interrupts import exit_at_once


def main() -> int:
    """Run the command, set up for Ctrl-C before it imports anything large."""
    exit_at_once("segnets")
    from segnets.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
