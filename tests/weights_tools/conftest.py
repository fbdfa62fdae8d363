"""What the tests of weights_tools share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from tests.weights_tools.files import network


@pytest.fixture(scope="session")
def state() -> dict[str, Tensor]:
    """The state dict of an LR-ASPP of torchvision with 21 classes. Not to be changed."""
    return dict(network().state_dict())


@pytest.fixture
def nothing_new(tmp_path: Path) -> Callable[[], None]:
    """Call it to assert that the test's folder holds only what it held when it was first called."""
    before: list[set[str]] = []

    def check() -> None:
        names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
        before.append(names)
        assert names == before[0]

    return check
