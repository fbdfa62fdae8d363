"""The real C++ programs, built once per session into build/cpp, as `make cpp` does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.export.common import one_thread, small

__all__ = ["build", "one_thread", "small", "small_ppm"]

ROOT = Path(__file__).parents[2]


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name  # from PyPI, in the virtual environment
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: pip install {name}")
    return found


@pytest.fixture(scope="session")
def build() -> Path:
    """The folder with segnets-run and segnets-test-threads; fails if the build fails or warns."""
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler: install g++ (Debian and Ubuntu: apt install g++)")
    folder = ROOT / "build" / "cpp"
    configure = [_tool("cmake"), "-S", str(ROOT / "cpp"), "-B", str(folder), "-G", "Ninja"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DSEGNETS_BUILD_TESTS=ON", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}"]
    configure += [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # another test process may want to build, too
        for command in (configure, [_tool("cmake"), "--build", str(folder)]):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout + result.stderr
    assert "warning:" not in result.stdout, result.stdout  # the compiler's
    return folder


@pytest.fixture(scope="session")
def small_ppm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.ppm"
    path.write_bytes(b"P6 3 2 255\n" + bytes(range(0, 180, 10)))
    return path
