"""Read an exported file in Python: its contract without executing anything, its module by executing what it holds.

A TorchScript archive is a program, a .pt2 is machine code, an .onnx is a graph of known operators. Load only files that
you or somebody you trust exported.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from segnets.deploy._memory import keep_freed_memory
from segnets.deploy._reason import reason_of
from segnets.deploy.contract import CONTRACT_FILE, FOLDERS, GOLDEN_FILE, IMAGE_PROGRAM, Contract
from segnets.deploy.formats import _script as torchscript
from segnets.deploy.formats import aoti
from segnets.deploy.formats import torchscript_cuda as cuda
from segnets.deploy.formats._cpu import check_onednn, check_processor
from segnets.deploy.formats.onnx import network as onnx
from segnets.deploy.formats.onnx.container import file_in, looks_like_onnx, unpack
from segnets.errors import ExportError, ImageError
from segnets.preprocessing import check_image, check_input

_MAX_CONTRACT_BYTES = 16 << 20


@dataclass(frozen=True)
class Exported:
    """A loaded export: the compiled module, what it promises, and the golden pair that it carries.

    module: called, it gives what the contract says of `forward`; it has the methods `preprocess` and `segment`.
    """

    path: Path
    size_bytes: int
    module: Any
    contract: Contract
    golden: dict[str, Tensor]

    def logits(self, image: Tensor) -> Tensor:
        """image: (N, 3, H, W) float32, normalised. Returns (N, C, H, W) logits, whichever output `forward` has.

        Raises ImageError for what is no such image; on the CPU also for NaN and infinity, whose mask would be all 0.
        """
        self._check_place("input", image)
        check_input(image)
        with _running():
            # One pass, a hundredth of the smallest network's time; a GPU would have to be waited for.
            if not image.is_cuda and not torch.isfinite(image.sum()):
                raise ImageError("input: NaN or infinite values; expected finite ones, as segnets.preprocess gives")
            scores = self.module(image)
        result: Tensor = scores["out"] if self.contract.output == "dict" else scores
        return result

    def preprocess(self, image: Tensor) -> Tensor:
        """image: (N, H, W, 3) uint8 RGB. Returns (N, 3, h, w) float32. Raises ImageError for what is no such image."""
        self._check_place("image", image)
        check_image(image)
        with _running():
            result: Tensor = self.module.preprocess(image)
        return result

    def segment(self, image: Tensor) -> Tensor:
        """image: (N, H, W, 3) uint8 RGB. Returns the mask (N, H, W), uint8 or int16.

        Raises ImageError for what is no such image.
        """
        self._check_place("image", image)
        check_image(image)
        with _running():
            mask: Tensor = self.module.segment(image)
        return mask

    def _check_place(self, name: str, image: object) -> None:
        """Raise ImageError for what is no tensor, or lies where the file doesn't run: machine code would crash."""
        if not isinstance(image, Tensor):
            raise ImageError(
                f"{name}: expected a torch.Tensor, got {type(image).__name__}; torch.from_numpy makes one of an array"
            )
        device = self.contract.device
        if image.device.type not in ("cpu", device):
            raise ImageError(f"{name}: is on {image.device}, and this file runs on {device}; image.{device}() moves it")


@contextmanager
def _running() -> Iterator[None]:
    """Without gradients, and without the profiling by which TorchScript makes the first two calls slow.

    It would compile again in the second, and find nothing: exports are folded, and nothing is fused on a CPU.
    """
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        yield


def read_contract(path: str | os.PathLike[str]) -> Contract:
    """Read what an exported file promises, without executing any of it.

    Raises ExportError if it is not a complete file that segnets exported.
    """
    data, where = _read(Path(path)), str(path)
    if looks_like_onnx(data):
        return _contract_in(unpack(data, where), where)
    _, contract, _ = _open_archive(data, where)
    return contract


def load_exported(path: str | os.PathLike[str], *, keep_memory: bool = True) -> Exported:
    """Load an exported file onto the device that it is for. This executes the program that it holds.

    keep_memory: on glibc, let the process keep the memory that a call frees for the next call (mallopt, for the whole
    process), instead of giving it back to the system and waiting for new pages: a tenth to a half of a call's time. The
    process then stays as large as its largest call was.
    Raises ExportError if it is not a complete, undamaged file that segnets exported.
    """
    exported = exported_from_bytes(_read(Path(path)), Path(path))
    if keep_memory:
        keep_freed_memory()
    return exported


def exported_from_bytes(data: bytes, path: Path) -> Exported:
    """As `load_exported`; path: for the messages."""
    if looks_like_onnx(data):
        return _onnx(data, path)
    archive, contract, prefix = _open_archive(data, str(path))
    golden_name = f"{prefix}{FOLDERS[contract.kind]}/{GOLDEN_FILE}"
    if golden_name not in archive.namelist():
        raise ExportError(f"{path}: has no {GOLDEN_FILE}, so it can't be checked; export the model again")
    golden = _golden(archive.read(golden_name), path)
    if contract.kind == "aoti":
        module: Any = _machine_code(data, archive, contract, prefix, str(path))
    else:
        module = _program(data, contract, path)
    return Exported(path, len(data), module, contract, golden)


def _onnx(data: bytes, path: Path) -> Exported:
    where = str(path)
    entries = unpack(data, where)
    contract = _contract_in(entries, where)
    golden = _golden(file_in(entries, GOLDEN_FILE, where), path)
    program = onnx.from_bytes(data, entries, contract.preprocessing, where)
    return Exported(path, len(data), program, contract, golden)


def _contract_in(entries: Mapping[str, str], where: str) -> Contract:
    if CONTRACT_FILE not in entries:
        raise ExportError(f"{where}: is ONNX, but has no {CONTRACT_FILE}: it was not made by segnets.export")
    contract = Contract.from_json(entries[CONTRACT_FILE], where)
    if contract.kind != "onnx":
        raise ExportError(f"{where}: its {CONTRACT_FILE} speaks of {contract.kind!r}, and it is onnx; export it again")
    return contract


def _golden(contents: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(contents)
    except SafetensorError as error:
        raise ExportError(f"{path}: its {GOLDEN_FILE} is damaged ({error}); export the model again") from None


def _program(data: bytes, contract: Contract, path: Path) -> Any:
    if contract.device == "cuda":
        cuda.check_available(f"{path}:")
    if contract.target == "cpu":
        check_onednn(contract.dtype, str(path))
    try:
        return torchscript.from_file(io.BytesIO(data), contract.device)
    except RuntimeError as error:
        raise ExportError(f"{path}: LibTorch can't load it: {reason_of(error)}") from None


def _machine_code(data: bytes, archive: zipfile.ZipFile, contract: Contract, prefix: str, where: str) -> Any:
    check_processor(contract.processor, where)
    image_name = f"{prefix}{FOLDERS[contract.kind]}/{IMAGE_PROGRAM}"
    if image_name not in archive.namelist():
        raise ExportError(f"{where}: has no {IMAGE_PROGRAM}, what prepares images; export the model again")
    return aoti.from_bytes(data, archive.read(image_name), contract.bounds, where)


def _read(path: Path) -> bytes:
    try:
        # Before opening it, which would wait for ever at a pipe.
        if path.exists() and not path.is_file():
            raise ExportError(f"{path}: is not a regular file; name a file that segnets.export wrote")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ExportError(f"{str(path)!r}: can't be read: {reason}") from None


def _open_archive(data: bytes, where: str) -> tuple[zipfile.ZipFile, Contract, str]:
    """Check the archive, and every checksum in it, which LibTorch doesn't; return it, its contract, its top folder."""
    if not data:
        raise ExportError(f"{where}: is empty")
    if not data.startswith(b"PK\x03\x04"):
        raise ExportError(
            f"{where}: is not a TorchScript archive{_what_it_is(data)}; export a model with segnets.export"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        damaged = archive.testzip()
    # Of a damaged or foreign archive zipfile raises, besides its own, RuntimeError for an entry with a password, and a
    # kind of it for an unknown compression. Each is a file that can't be read; none may reach the user raw.
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, OSError) as error:
        raise ExportError(f"{where}: is truncated or damaged ({error}); copy or export it again") from None
    if damaged is not None:
        raise ExportError(f"{where}: is damaged: the checksum of {damaged!r} is wrong; copy or export it again")
    names = archive.namelist()
    prefix = names[0].split("/")[0] + "/" if names else ""
    if len(set(names)) != len(names):
        raise ExportError(f"{where}: has two entries of one name, so it is ambiguous; export the model again")
    kind = "aoti" if f"{prefix}archive_format" in names else "torchscript"
    if kind == "torchscript" and f"{prefix}constants.pkl" not in names:
        if f"{prefix}data.pkl" in names:
            raise ExportError(
                f"{where}: is a Python checkpoint (torch.save); load it and export it with segnets.export"
            )
        raise ExportError(f"{where}: is a zip file, but not a TorchScript archive; export a model with segnets.export")
    contract_name = f"{prefix}{FOLDERS[kind]}/{CONTRACT_FILE}"
    if contract_name not in names:
        what = "TorchScript" if kind == "torchscript" else "an archive of torch.export"
        raise ExportError(f"{where}: is {what}, but has no {CONTRACT_FILE}: it was not made by segnets.export")
    if archive.getinfo(contract_name).file_size > _MAX_CONTRACT_BYTES:
        raise ExportError(f"{where}: its {CONTRACT_FILE} is larger than any contract; export the model again")
    contract = Contract.from_json(archive.read(contract_name), where)
    if contract.kind != kind:
        raise ExportError(
            f"{where}: its {CONTRACT_FILE} speaks of {contract.kind!r}, and it is {kind}; export it again"
        )
    return archive, contract, prefix


def _what_it_is(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return " but a Git LFS pointer (run git lfs pull)"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return " but a web page (the download failed)"
    if data[8:9] == b"{" and len(data) > 8:
        return " but a safetensors file (weights without a program)"
    if data.startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05")):
        return " but a pickle (an old Python checkpoint)"
    return ""
