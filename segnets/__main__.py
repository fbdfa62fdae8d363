"""`python -m segnets` is the command `segnets`."""

import sys

from segnets.cli import main

sys.exit(main())
