"""Building C++ programs against the LibTorch inside the torch wheel, once however many test processes want them."""

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
    """The path of cmake or ninja; skips the test where there is none."""
    beside = Path(sys.executable).parent / name  # from PyPI, in the virtual environment
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        # `make test` installs both. Whoever runs pytest in an environment of their own may work on Python alone.
        pytest.skip(f"no {name}: pip install {name}")
    return found


def build(source: Path, name: str, *definitions: str) -> tuple[Path, str]:
    """Build `source` into build/`name`, where a second call finds it; return the folder and what the compiler said.

    Skips the test without a compiler.
    """
    # A compiler comes from the system and not from PyPI, and using segnets from Python takes none: without it the other
    # tests still count, and pytest names each one that did not run.
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler: install g++ (Debian and Ubuntu: apt install g++)")
    folder = ROOT / "build" / name
    configure = [tool("cmake"), "-S", str(source), "-B", str(folder), "-G", "Ninja"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    configure += [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}", *definitions]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # another test process may want to build, too
        for command in (configure, [tool("cmake"), "--build", str(folder)]):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout
