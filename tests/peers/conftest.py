"""Run the comparisons with other projects only on request."""

from __future__ import annotations

from pathlib import Path

import pytest

# These files need no project but torchvision.
_EVERY_RUN = {"test_coverage.py", "test_layouts_page.py", "test_torchvision.py"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that need another project, unless `tests/peers` is named (`make test-peers`)."""
    named = any("tests/peers" in argument for argument in config.args)
    needs_project = collection_path.name.startswith("test_") and collection_path.name not in _EVERY_RUN
    return True if needs_project and not named else None
