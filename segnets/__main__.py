"""Run the command `segnets` as `python -m segnets`."""

import sys

from segnets.cli import main

sys.exit(main())
