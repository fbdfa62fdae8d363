"""Reading and writing one `.safetensors` file with a description of the network inside.

Writing is our own few lines and not `safetensors.torch.save_file`, which ignores the umask (new files are 0600),
replaces links and devices, and leaves unrecognisable temporary files after a kill. The format is the same,
https://github.com/huggingface/safetensors#format: 8 bytes of header length, a JSON header, the tensors' bytes.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segnets.card import ModelCard, ModelConfig
from segnets.errors import WeightsError
from segnets.files import atomic_write
from segnets.weights.description import METADATA_KEY, decode, encode

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

# Where torch puts tensors of its own. Some kernels compute other last bits from a tensor that lies elsewhere.
ALIGNMENT = 64


@dataclass(frozen=True)
class WeightsFile:
    """What a `.safetensors` file holds. config and card are None in one that segnets did not write.

    The tensors are mapped from the file: they cost memory only as far as they are touched, and writing to them
    changes the memory, never the file.
    """

    tensors: Mapping[str, Tensor]
    config: ModelConfig | None
    card: ModelCard | None


def read_weights_file(path: str | os.PathLike[str]) -> WeightsFile:
    """Open a `.safetensors` file. Raises WeightsError, also for the files that people mistake for one."""
    _check_is_safetensors(Path(path))
    where = str(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # The keys in the order of the file: reading in that order is what makes a cold start fast.
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except SafetensorError as error:
        raise WeightsError(f"{where}: is not a sound safetensors file ({error}); fetch or convert it again") from None
    except (OSError, UnicodeError, ValueError, MemoryError) as error:
        raise WeightsError(f"{where}: can't be read: {error}") from None
    if METADATA_KEY not in metadata:
        return WeightsFile(tensors, None, None)
    config, card = decode(metadata[METADATA_KEY], where)
    return WeightsFile(tensors, config, card)


def write_weights_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    card: ModelCard,
    *,
    overwrite: bool = True,
) -> None:
    """Write tensors and their description; read back and compare byte for byte; only then does the file get its name.

    tensors: any layout in memory (non-contiguous and shared ones are written out in full), on any device.
    The same input gives the same bytes. Raises WeightsError for tensors that can't be stored, OutputError for a
    target that can't be written.
    """
    _check_storable(tensors)
    names = sorted(tensors, key=lambda name: (-_evenness(tensors[name]), name))
    header = _header(names, tensors, encode(config, card))
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for name in names:
            file.write(_bytes_of(tensors[name]))
        file.flush()
        with ThreadPoolExecutor(1) as pool:  # comparing takes as long as the disk: do both at once
            synced = pool.submit(os.fsync, file.fileno())
            _compare(file, 8 + len(header), names, tensors, path)
            synced.result()


def _evenness(tensor: Tensor) -> int:
    """The power of two that a tensor's size in bytes is a multiple of, ALIGNMENT at most.

    In falling order of it, every tensor lies at a multiple of its own, and nearly all at a multiple of ALIGNMENT.
    """
    size = tensor.numel() * tensor.element_size()
    return min(size & -size, ALIGNMENT) or ALIGNMENT


def _header(names: list[str], tensors: Mapping[str, Tensor], description: str) -> bytes:
    entries: dict[str, object] = {"__metadata__": {METADATA_KEY: description}}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return header + b" " * (-(8 + len(header)) % ALIGNMENT)  # before it stand 8 bytes with its length


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: np.ndarray[tuple[int], np.dtype[np.uint8]] = flat.view(torch.uint8).numpy()
    return array.data


def _compare(
    file: BufferedRandom, start: int, names: list[str], tensors: Mapping[str, Tensor], path: str | os.PathLike[str]
) -> None:
    room = np.empty(1 << 22, dtype=np.uint8)
    file.seek(start)
    for name in names:
        expected = np.frombuffer(_bytes_of(tensors[name]), dtype=np.uint8)
        for begin in range(0, len(expected), len(room)):
            part = expected[begin : begin + len(room)]
            read = room[: len(part)]
            # By numpy: comparing a memoryview with bytes goes element by element, in Python's own time.
            if file.readinto(read.data) != len(part) or not np.array_equal(read, part):
                raise WeightsError(
                    f"{path}: what was written reads back differently at {name}; the disk may be failing"
                )
    if file.read(1):
        raise WeightsError(f"{path}: what was written is longer than it should be; the disk may be failing")


def _check_storable(tensors: Mapping[str, object]) -> None:
    problems = []
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name or name == "__metadata__" or not name.isprintable():
            problems.append(f"{name!r}: not a usable name")
        elif not isinstance(tensor, Tensor):
            problems.append(f"{name}: a {type(tensor).__name__}, not a tensor")
        elif tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in _DTYPE_NAMES:
            problems.append(f"{name}: {tensor.dtype} with layout {tensor.layout} can't be stored")
        elif tensor.is_meta:
            problems.append(f"{name}: has a shape but no values (meta device)")
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise WeightsError(f"{len(problems)} of {len(tensors)} tensors can't be saved: {shown}")


def read_start(path: Path) -> bytes:
    """The first 16 bytes of a regular file that is not empty. Raises WeightsError.

    What it is comes before opening it: opening alone waits for ever at a pipe, and acts at a device.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"{path}: is not a regular file; name a file with weights")
        if status.st_size == 0:
            raise WeightsError(f"{path}: is empty; fetch or convert it again")
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{str(path)!r}: can't be read: {error}") from None


def _check_is_safetensors(path: Path) -> None:
    """Say what a file is that is no safetensors file, before a library says something less helpful."""
    start = read_start(path)
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise WeightsError(
            f"{path}: is a PyTorch file, not safetensors; convert it with: weights-tools convert {path} OUT.safetensors"
        )
    if start[8:9] != b"{":
        raise WeightsError(f"{path}: is not a safetensors file; `weights-tools inspect` tells what it is")
