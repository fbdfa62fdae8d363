"""Starting segnets-run, and the files that it reads and writes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import torch


def run(build: Path, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(build / "segnets-run"), *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    # The type checker can't choose among the signatures of `run` when some of its options are passed through.
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)  # type: ignore[call-overload,no-any-return]


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
