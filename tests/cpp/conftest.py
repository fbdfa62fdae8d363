"""Fixtures that build the C++ programs and the Python module into build/cpp, once per session, as `make cpp` does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests import cmake
from tests.cpp.common import export_tiny, quick_starts
from tests.deploy.common import one_thread, small

__all__ = ["build", "native", "one_thread", "small", "small_ppm", "tiny"]


@pytest.fixture(scope="session")
def build() -> Iterator[Path]:
    """Return the folder with the programs and segnets_native; fail if the build fails or warns."""
    folder = cmake.build_cpp()
    with quick_starts(folder):
        yield folder


@pytest.fixture(scope="session")
def small_ppm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.ppm"
    path.write_bytes(b"P6 3 2 255\n" + bytes(range(0, 180, 10)))
    return path


@pytest.fixture(scope="session")
def native(build: Path) -> ModuleType:
    """Import segnets_native from this build instead of one that is installed."""
    sys.path.insert(0, str(build))
    try:
        import segnets_native
    except ModuleNotFoundError:
        # Without Python headers, CMake builds the C++ programs alone. A failing build fails in the fixture `build`.
        pytest.skip("built without segnets_native: no headers of this Python (Debian and Ubuntu: install python3-dev)")
    finally:
        sys.path.remove(str(build))
    assert Path(segnets_native.__file__).parent == build
    module: ModuleType = segnets_native
    return module


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export one small convolution, which runs in microseconds, with five classes and for images of any size."""
    return export_tiny(tmp_path_factory.mktemp("tiny") / "tiny.ts")
