"""Checkpoints for resuming a run: one file with tensors and plain values only, written atomically."""

from __future__ import annotations

import contextlib
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedRandom
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from segnets.errors import OutputError, SegnetsError, TrainingError
from segnets.files import atomic_write, cannot_write

KIND = "segnets training checkpoint"
VERSION = 1
_ADVICE = "continue from RUN/last.safetensors with --weights, or start again"


def write_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: an existing file is replaced only once the new one is complete.

    Args:
        path: File to write.
        state: Dictionaries, lists, tuples, tensors, numbers, strings, booleans and None. Other objects raise TypeError,
            because `torch.load(weights_only=True)` could not read them.

    Raises:
        OutputError: If the file can't be written, for example because the disk is full.
        TypeError: If `state` contains any other object.
    """
    target = Path(path)
    content = {"kind": KIND, "version": VERSION, **_plain(state, "state")}
    with atomic_write(target) as file:
        keeper = _ErrorKeeper(file)
        try:
            torch.save(content, cast(IO[bytes], keeper))  # only `write` and `flush` are called
        except (OSError, RuntimeError) as error:
            # After a failed write, torch reports a wrong file position instead of the disk error.
            raise cannot_write(target, keeper.error or OSError(str(error))) from None


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint. Nothing in it is executed.

    Returns:
        The dictionary that was written, with its tensors on the CPU.

    Raises:
        TrainingError: If the file is missing, is damaged, is not a training checkpoint, or has a newer version.
    """
    source = Path(path)
    if not source.is_file():
        raise TrainingError(f"{source}: no such checkpoint")
    _check_archive(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other pickle versions; only a failed read matters
            content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many exception types for a damaged or foreign file
        raise TrainingError(
            f"{source}: is damaged or not a checkpoint of segnets train; start from weights with --weights FILE instead"
        ) from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise TrainingError(
            f"{source}: is not a checkpoint of segnets train and can't be resumed; start a new run from its weights "
            f"with --weights {source}"
        )
    version = content.get("version")
    if not isinstance(version, int) or version < 1:
        raise TrainingError(f"{source}: is damaged: its version is {version!r}; {_ADVICE}")
    if version > VERSION:
        raise TrainingError(
            f"{source}: was written by a newer segnets (checkpoint version {version}, this one reads {VERSION}); "
            "update segnets"
        )
    return content


def _check_archive(path: Path) -> None:
    """Verify the checksums of the archive. torch does not.

    Raises:
        TrainingError: If the file is not a zip archive, or an entry is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise zipfile.BadZipFile  # torch does not compress; this rules out zip bombs
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, OSError, zlib.error):
        raise TrainingError(f"{path}: is truncated, damaged or not a checkpoint; {_ADVICE}") from None
    if damaged is not None:
        raise TrainingError(f"{path}: is damaged ({damaged} does not match its checksum); {_ADVICE}")


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Convert errors from restoring a checkpoint to a TrainingError that names the file.

    Raises:
        TrainingError: If the checkpoint has missing or unexpected contents.
    """
    try:
        yield
    except (SegnetsError, torch.OutOfMemoryError):  # the latter is a RuntimeError too, but not the file's fault
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise TrainingError(f"{path}: does not contain the state of this run ({reason}); {_ADVICE}") from None


class _ErrorKeeper:
    """File wrapper that keeps the first write error, which torch replaces with another one."""

    def __init__(self, file: BufferedRandom) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()

    def _write(self, data: Any) -> int:
        return self._file.write(data)


def _plain(value: Any, where: str) -> Any:
    """Convert nested containers to plain dictionaries, lists and tuples.

    Raises:
        TypeError: If the value contains an object of another type.
    """
    if value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str, bytes):
        return value.detach() if isinstance(value, Tensor) else value
    if isinstance(value, Mapping):
        return {key: _plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each, f"{where}[{i}]") for i, each in enumerate(value))
    raise TypeError(f"{where}: a checkpoint can't hold a {type(value).__name__}")


def check_room(folder: Path, sizes: Mapping[Path, int]) -> None:
    """Check that the disk has room for files that do not exist yet, and for a copy of one while it is replaced.

    Args:
        folder: Existing folder of the files.
        sizes: Expected size of each file in bytes.

    Raises:
        OutputError: If there is not enough free space.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    needed = sum(size for path, size in sizes.items() if not path.exists()) + max(sizes.values())
    if free < needed:
        raise OutputError(
            f"{folder}: {free / 1e6:.0f} MB are free, and checkpoints and weights take {needed / 1e6:.0f} MB; free "
            "some space or choose another --out"
        )
