"""The option `--full`, and one thread for each test process."""

from __future__ import annotations

import gc
import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes would compete for the cores
    # Before torch is loaded, so that it holds for every thread, and for the programs that the tests start.
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch  # not by the process that only hands out the tests, while they wait for it

    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run tests marked `full` (more than an hour)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked `full` unless `--full` is given."""
    if config.getoption("--full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    """Let the garbage collector leave the modules and the thousands of tests alone, which stay until the end."""
    gc.collect()
    gc.freeze()
