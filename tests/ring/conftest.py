"""The other side of a ring: a C++ program, and Python processes that start quickly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from segnets.errors import FrameRingError
from segnets.frame_ring._file import check_platform
from tests import cmake
from tests.ring.common import Nursery


@pytest.fixture(autouse=True, scope="session")
def can_run() -> None:
    try:
        check_platform()
    except FrameRingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def program() -> Path:
    """segnets-test-ring, from a build that knows nothing of LibTorch; fails if the build fails or warns."""
    folder, said = cmake.build(cmake.ROOT / "cpp", "ring", "-DSEGNETS_BUILD_TESTS=ON", "-DSEGNETS_WITH_TORCH=OFF")
    assert "warning:" not in said, said  # the compiler's
    return folder / "segnets-test-ring"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test makes its ring."""
    return tmp_path / "ring"
