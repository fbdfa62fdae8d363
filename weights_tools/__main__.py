"""`python -m weights_tools` is the command `weights-tools`."""

import sys

from weights_tools.cli import main

sys.exit(main())
