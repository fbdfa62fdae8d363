"""Entry point of the command `weights-tools`, also as `python -m weights_tools`."""

import sys

from segnets.interrupts import exit_at_once


def main() -> int:
    """Run the command. Ctrl-C is handled before anything large is imported."""
    exit_at_once("weights-tools")
    from weights_tools.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
