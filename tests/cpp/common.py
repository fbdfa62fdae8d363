"""Helpers to run segnets-run, to read and write its files, and to export a tiny network."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from segnets.deploy import export, load_exported
from segnets.preprocessing import Preprocessing


def run(
    build: Path, *arguments: object, preexec_fn: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run segnets-run. `preexec_fn` sets limits of the new process, as in subprocess.run."""
    command = [str(build / "segnets-run"), *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, preexec_fn=preexec_fn)


def fails(build: Path, message: str, *arguments: object, code: int = 1) -> None:
    result = run(build, *arguments)
    assert (result.returncode, result.stdout) == (code, ""), result
    assert message in result.stderr.splitlines()[0], result.stderr
    assert code == 2 or result.stderr.count("\n") == 1  # one line, no stack trace


def write_ppm(path: Path, image: torch.Tensor) -> Path:
    _, height, width, _ = image.shape
    path.write_bytes(b"P6\n# a comment\n%d %d\n255\n" % (width, height) + image.numpy().tobytes())
    return path


def read_pnm(path: Path) -> np.ndarray:
    kind, size, maximum, pixels = path.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    dtype = np.dtype(">u2") if maximum == b"65535" else np.dtype(np.uint8)
    return np.frombuffer(pixels, dtype).reshape((height, width, 3) if kind == b"P6" else (height, width))


class Tiny(nn.Module):
    """A network of one convolution with random weights."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, classes, 3, padding=1).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.normal_(generator=generator)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"out": self.convolution(image)}


def export_tiny(
    path: Path,
    classes: int = 5,
    preprocessing: Preprocessing | None = None,
    output: Literal["tensor", "dict"] = "tensor",
) -> Path:
    export(Tiny(classes).eval(), path, preprocessing=preprocessing or Preprocessing(resize="none"), output=output)
    return path


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    """Return random bytes."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def expected(model: Path, image: np.ndarray) -> np.ndarray:
    """Return the mask that TorchScript computes in Python for an (H, W, 3) or (N, H, W, 3) image."""
    image = image.copy(order="C")
    batch = image[None] if image.ndim == 3 else image
    mask: np.ndarray = load_exported(model).segment(torch.from_numpy(batch)).numpy()
    return mask[0] if image.ndim == 3 else mask
