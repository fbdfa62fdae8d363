"""Read and write a `.safetensors` file that contains a description of its network.

`safetensors.torch.save_file` is not used for writing: it ignores the umask (new files are 0600), replaces links and
devices, and leaves unrecognisable temporary files when it is killed. The format is the same: 8 bytes of header length,
a JSON header, the bytes of the tensors (https://github.com/huggingface/safetensors#format).
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
from segnets.files import atomic_write, is_export
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

# Alignment of torch's own tensors in bytes. Some kernels differ in the last bits for an unaligned tensor.
ALIGNMENT = 64


@dataclass(frozen=True)
class WeightsFile:
    """Contents of a `.safetensors` file.

    Attributes:
        tensors: Tensors mapped from the file. They take memory only once they are read, and writing to them never
            changes the file.
        config: Network of the weights; None if segnets did not write the file.
        card: Classes, preprocessing and origin of the weights; None if segnets did not write the file.
    """

    tensors: Mapping[str, Tensor]
    config: ModelConfig | None
    card: ModelCard | None


def read_weights_file(path: str | os.PathLike[str]) -> WeightsFile:
    """Open a `.safetensors` file.

    Raises:
        WeightsError: If the file cannot be read, is damaged, or is in another format, which the message then names.
    """
    _check_is_safetensors(Path(path))
    where = str(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Keys in file order: reading in this order makes a cold start fast.
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except SafetensorError as error:
        raise WeightsError(f"{where}: is not a valid safetensors file ({error}); fetch or convert it again") from None
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
    """Write tensors and their description to a file.

    The same input gives the same bytes. The file is written under a temporary name, read back and compared byte for
    byte before it gets its name.

    Args:
        path: File to write.
        tensors: Tensors on any device, contiguous or not; tensors that share memory are each written in full.
        config: Network of the weights.
        card: Meaning of the weights.
        overwrite: Whether to replace an existing file.

    Raises:
        WeightsError: If a tensor cannot be stored.
        OutputError: If the file cannot be written.
    """
    _check_storable(tensors)
    names = sorted(tensors, key=lambda name: (-_natural_alignment(tensors[name]), name))
    header = _header(names, tensors, encode(config, card))
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for name in names:
            file.write(_bytes_of(tensors[name]))
        file.flush()
        with ThreadPoolExecutor(1) as pool:  # comparing takes as long as flushing to disk, so do both at once
            synced = pool.submit(os.fsync, file.fileno())
            _compare(file, 8 + len(header), names, tensors, path)
            synced.result()


def _natural_alignment(tensor: Tensor) -> int:
    """Return the largest power of two up to ALIGNMENT that divides a tensor's size in bytes.

    Sorted by this value in descending order, every tensor is aligned to it, and nearly all to ALIGNMENT.
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
    return header + b" " * (-(8 + len(header)) % ALIGNMENT)  # preceded by 8 bytes with its length


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
            # Comparing a memoryview with bytes would be an element-wise loop in the interpreter.
            if file.readinto(read.data) != len(part) or not np.array_equal(read, part):
                raise WeightsError(
                    f"{path}: {name} reads back differently from what was written; the disk may be failing"
                )
    if file.read(1):
        raise WeightsError(f"{path}: the written file is too long; the disk may be failing")


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
    """Return the first 16 bytes of a regular file.

    The file type is checked before opening, because opening a pipe blocks and opening a device can have side effects.

    Raises:
        WeightsError: If the file is missing, empty, not regular or not readable.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"{path}: is not a regular file. Pass a weights file")
        if status.st_size == 0:
            raise WeightsError(f"{path}: is empty; fetch or convert it again")
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{str(path)!r}: can't be read: {error}") from None


def _check_is_safetensors(path: Path) -> None:
    """Refuse a file in another format with a message that names the format."""
    start = read_start(path)
    if is_export(path):
        raise WeightsError(
            f"{path}: is an export of segnets, not weights; pass the .safetensors that it was made from. "
            f"`segnets info {path}` describes the export, segnets.load_exported runs it"
        )
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise WeightsError(
            f"{path}: is a PyTorch file, not safetensors; convert it with: weights-tools convert {path} OUT.safetensors"
        )
    if start[8:9] != b"{":
        raise WeightsError(f"{path}: is not a safetensors file; identify it with `weights-tools inspect`")
