"""Run `weights-tools` as `python -m weights_tools`."""

import sys

from weights_tools.cli import main

sys.exit(main())
