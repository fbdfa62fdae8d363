"""Build C++ programs against the LibTorch inside the torch wheel, once for all test processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).parents[1]


def tool(name: str) -> str:
    """Return the path of cmake or ninja; skip the test if it is not installed."""
    installed = Path(sys.executable).parent / name  # from PyPI, in the virtual environment
    found = str(installed) if installed.exists() else shutil.which(name)
    if found is None:  # `make test` installs both; another environment may be for Python alone
        pytest.skip(f"no {name}: pip install {name}")
    return found


def build(source: Path, name: str, *definitions: str, target: str = "all") -> tuple[Path, str]:
    """Build a CMake project; skip the test if there is no compiler.

    Args:
        source: Folder with the CMakeLists.txt.
        name: Folder below `build/`, where a later call finds what was built.
        definitions: Arguments such as `-DSEGNETS_BUILD_TESTS=ON`.
        target: What to build of it.

    Returns:
        The build folder, and the output of the build.
    """
    # Python users need no compiler, and PyPI has none: without one, the other tests still count.
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler: install g++ (Debian and Ubuntu: apt install g++)")
    folder = ROOT / "build" / name
    configure = [tool("cmake"), "-S", str(source), "-B", str(folder), "-G", "Ninja"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    configure += [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}", *definitions]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # another test process may want to build
        for command in (configure, [tool("cmake"), "--build", str(folder), "--target", target]):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout


def build_cpp(target: str = "all") -> Path:
    """Build the C++ side with its tests into build/cpp, as `make cpp` does. A compiler warning is a failure.

    Args:
        target: A program, or "all" for all of them and segnets_native.

    Returns:
        The folder with the programs.
    """
    python = ("-DSEGNETS_BUILD_PYTHON=AUTO", f"-DPython_EXECUTABLE={sys.executable}")
    folder, output = build(ROOT / "cpp", "cpp", "-DSEGNETS_BUILD_TESTS=ON", *python, target=target)
    assert "warning:" not in output, output
    return folder
