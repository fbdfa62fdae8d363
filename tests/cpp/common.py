"""Helpers to run segnets-run, to read and write its files, and to export a tiny network."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from segnets.deploy import export, load_exported
from segnets.preprocessing import Preprocessing


class _Starter:
    """A segnets-run that loaded its libraries and forks for each call (cpp/tests/starter.cpp)."""

    def __init__(self, build: Path, library: Path, environment: dict[str, str]) -> None:
        self.program = str(build / "segnets-run")
        self.environment = environment
        with ExitStack() as stack:
            self.socket, its_end = socket.socketpair()
            stack.enter_context(self.socket)
            self.outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            self.process = subprocess.Popen(
                [self.program],
                stdin=its_end.fileno(),
                stdout=self.outputs[0],
                stderr=self.outputs[1],
                env=environment | {"LD_PRELOAD": str(library)},
            )
            its_end.close()
            self._stack = stack.pop_all()

    def run(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        words = b"".join(os.fsencode(word) + b"\0" for word in (str(Path.cwd()), self.program, *arguments))
        for output in self.outputs:
            output.seek(0)
            output.truncate()
        self.socket.sendall(struct.pack("=I", len(words)) + words)
        (status,) = struct.unpack("=i", self.socket.recv(4, socket.MSG_WAITALL))
        texts = []
        for output in self.outputs:
            output.seek(0)
            texts.append(output.read().decode())
        return subprocess.CompletedProcess([self.program, *arguments], os.waitstatus_to_exitcode(status), *texts)

    def close(self) -> None:
        self._stack.close()
        self.process.wait(timeout=60)


_starters: dict[Path, _Starter] = {}


@contextmanager
def quick_starts(build: Path) -> Iterator[None]:
    """Let `run` fork a loaded segnets-run, where the build has the library for that."""
    library = build / "libsegnets-test-starter.so"
    if not library.exists():  # not Linux
        yield
        return
    _starters[build] = _Starter(build, library, _environment() | {"OMP_NUM_THREADS": "1"})  # as in `one_thread`
    try:
        yield
    finally:
        _starters.pop(build).close()


def _environment() -> dict[str, str]:
    left_out = ("LD_LIBRARY_PATH", "PYTEST_CURRENT_TEST")
    return {k: v for k, v in os.environ.items() if k not in left_out}


def run(
    build: Path, *arguments: object, preexec_fn: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run segnets-run. `preexec_fn` sets limits of the new process, as in subprocess.run."""
    environment = _environment()
    starter = _starters.get(build)
    if starter is not None and preexec_fn is None and environment == starter.environment:
        return starter.run([str(argument) for argument in arguments])
    return run_anew(build, *arguments, preexec_fn=preexec_fn)


def run_anew(
    build: Path, *arguments: object, preexec_fn: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run segnets-run in a process that is no fork of a loaded one."""
    command = [str(build / "segnets-run"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=_environment(), preexec_fn=preexec_fn
    )


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
