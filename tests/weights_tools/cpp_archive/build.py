"""Build the test program and run it from Python, or unpack archives that it wrote."""

from __future__ import annotations

import lzma
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tests import cmake

FOLDER = Path(__file__).parent
KINDS = ("module", "tensors", "tensor", "optimizer")


def build() -> Path:
    """Build the program unless it exists; skip the test without a compiler."""
    folder, _ = cmake.build(FOLDER, "cpp_archive")
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


def patterned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of these names, shapes and dtypes that differ from each other and take few values."""
    return {
        name: (torch.arange(tensor.numel()) % 7 + 10 * index).to(tensor.dtype).reshape(tensor.shape)
        for index, (name, tensor) in enumerate(state.items())
    }


def write_samples(state: Mapping[str, Tensor]) -> None:
    """Write the compressed archives in this folder again, from `state` with the values of `patterned`."""
    program = build()
    for kind in KINDS:
        path = torch_save(program, patterned(state), FOLDER / f"{kind}.pt", kind)
        path.with_name(f"{kind}.pt.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))
        path.unlink()


def sample(kind: str, target: Path) -> Path:
    """Unpack an archive of `write_samples` and return its path."""
    target.write_bytes(lzma.decompress((FOLDER / f"{kind}.pt.xz").read_bytes()))
    return target
