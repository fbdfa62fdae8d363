"""The real C++ programs, built once per session into build/cpp, as `make cpp` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import cmake
from tests.export.common import one_thread, small

__all__ = ["build", "one_thread", "small", "small_ppm"]


@pytest.fixture(scope="session")
def build() -> Path:
    """The folder with segnets-run and segnets-test-threads; fails if the build fails or warns."""
    folder, said = cmake.build(cmake.ROOT / "cpp", "cpp", "-DSEGNETS_BUILD_TESTS=ON", "-DSEGNETS_BUILD_EXAMPLES=ON")
    assert "warning:" not in said, said  # the compiler's
    return folder


@pytest.fixture(scope="session")
def small_ppm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.ppm"
    path.write_bytes(b"P6 3 2 255\n" + bytes(range(0, 180, 10)))
    return path
