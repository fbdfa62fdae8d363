"""Build the test program and run it from Python."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tests import cmake


def build() -> Path:
    """Build the program unless it exists; skip the test without a compiler."""
    folder, _ = cmake.build(Path(__file__).parent, "cpp_archive")
    return folder / "cpp-archive"


def torch_save(program: Path, state: Mapping[str, Tensor], target: Path, kind: str = "module") -> Path:
    """Write tensors with torch::save of C++ and return the path.

    Args:
        program: The program that `build` returned.
        state: Tensors by dotted name.
        target: File to write.
        kind: "module" for a tree of modules of these dotted names, "tensors" for a std::vector of the tensors, "tensor"
            for the first alone, "optimizer" for the state of SGD with momentum.
    """
    source = target.with_name(f"{target.name}.in")
    torch.save(dict(state), source)
    command = [str(program), kind, str(source), str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    source.unlink()
    assert result.returncode == 0, result.stderr
    return target
