"""Building the test program, and starting it from Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor

ROOT = Path(__file__).parents[3]


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name  # from PyPI, in the virtual environment
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: pip install {name}")
    return found


def build() -> Path:
    """Build the program into build/cpp_archive, where a second call finds it; skip the test without a compiler."""
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler: install g++ (Debian and Ubuntu: apt install g++)")
    folder = ROOT / "build" / "cpp_archive"
    configure = [_tool("cmake"), "-S", str(Path(__file__).parent), "-B", str(folder), "-G", "Ninja"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}"]
    configure += [f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # another test process may want to build, too
        for command in (configure, [_tool("cmake"), "--build", str(folder)]):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout + result.stderr
    return folder / "cpp-archive"


def torch_save(program: Path, state: Mapping[str, Tensor], target: Path, kind: str = "module") -> Path:
    """Let C++ write these tensors to `target` with torch::save, and return it.

    kind: "module" for a tree of modules of these dotted names, "tensors" for a std::vector of them, "tensor" for the
    first alone, "optimizer" for the state of an SGD with momentum.
    """
    source = target.with_name(f"{target.name}.in")
    torch.save(dict(state), source)
    command = [str(program), kind, str(source), str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    source.unlink()
    assert result.returncode == 0, result.stderr
    return target
