"""Entry point of the command `segnets`, also as `python -m segnets`."""

import sys

from segnets.interrupts import exit_at_once


def main() -> int:
    """Run the command. Ctrl-C is handled before anything large is imported."""
    exit_at_once("segnets")
    from segnets.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
