"""Peers of a ring: a C++ program, and Python processes that start quickly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from segnets.errors import FrameRingError
from segnets.frame_ring._file import check_platform
from tests import cmake
from tests.ring.common import PeerStarter


@pytest.fixture(autouse=True, scope="session")
def can_run() -> None:
    try:
        check_platform()
    except FrameRingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def program() -> Path:
    """Return segnets-test-ring."""
    return cmake.build_cpp("segnets-test-ring") / "segnets-test-ring"


@pytest.fixture(scope="module")
def peers() -> Iterator[PeerStarter]:
    with PeerStarter() as peers:
        yield peers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path for a test's ring."""
    return tmp_path / "ring"
