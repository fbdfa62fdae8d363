"""Write files atomically, and recognise exported files and suffixes.

`atomic_write` writes to a temporary file in the target's folder, flushes it to disk and renames it. A reader sees
either the old file or the complete new one, even if the process is killed or the disk fills up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import zipfile
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path

from segnets.errors import OutputError

TEMPORARY_PREFIX = ".segnets-"
TEMPORARY_SUFFIX = ".tmp"

# Suffixes that other programs choose a reader by.
_FORMATS = {
    ".safetensors": "weights (safetensors)",
    ".pt": "PyTorch and TorchScript",
    ".pth": "PyTorch checkpoints",
    ".ckpt": "PyTorch checkpoints",
    ".bin": "PyTorch checkpoints",
    ".pkl": "pickles",
    ".ts": "TorchScript",
    ".pt2": "compiled PyTorch models",
    ".onnx": "ONNX",
    ".npz": "NumPy",
    ".h5": "HDF5",
    ".tflite": "LiteRT",
    ".engine": "TensorRT",
}

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another location",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another location",
    errno.EFBIG: "the file would exceed the size limit in force here (ulimit -f)",
    errno.EROFS: "the file system is read-only; choose another location",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.ENOENT: "the folder does not exist; create it first",
    errno.ENOTDIR: "part of the path is not a folder",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ELOOP: "the folder is reached through a loop of symbolic links",
}


def format_of_suffix(path: Path) -> str:
    """Return the known format of a file name's suffix, or ""."""
    return _FORMATS.get(path.suffix.lower(), "")


def check_writable_target(path: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Check that a regular file can be created or replaced at `path`.

    Links, devices, pipes and folders are refused, because a rename would replace them with a regular file.

    Args:
        path: Path of the file to write.
        overwrite: Whether an existing regular file may be replaced.

    Returns:
        `path` as a Path.

    Raises:
        OutputError: If `path` can't be a regular file, or exists and `overwrite` is False.
    """
    target = Path(path)
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        _check_folder(target)
        return target
    except (OSError, ValueError) as error:
        raise cannot_write(target, error) from None
    if stat.S_ISLNK(status.st_mode):
        raise OutputError(f"{target}: is a symbolic link, which would be replaced; pass the file that it points to")
    if stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{target}: is a folder; pass a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{target}: is a device, pipe or socket, not a regular file; choose another name")
    if status.st_nlink > 1:
        raise OutputError(
            f"{target}: has {status.st_nlink} hard links, which a replacement would separate; remove it first"
        )
    if not overwrite:
        raise OutputError(f"{target}: exists already; remove it, choose another name, or ask to overwrite (--force)")
    return target


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, overwrite: bool = True, durable: bool = True
) -> Iterator[BufferedRandom]:
    """Open a temporary file for a `with` block, and rename it to `path` when the block succeeds.

    If the block raises, the temporary file is removed and the exception propagates. The mode of the new file follows
    the umask. A killed process leaves at most one file `.segnets-*.tmp` in the target's folder.

    Args:
        path: Path of the file to write.
        overwrite: Whether an existing regular file may be replaced.
        durable: Whether to wait until the file is on the disk, so that it survives a power failure.

    Yields:
        The temporary file, opened for binary reading and writing.

    Raises:
        OutputError: If the target can't be written.
    """
    target = check_writable_target(path, overwrite=overwrite)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)  # the kernel applies the umask
    except OSError as error:
        raise cannot_write(target, error) from None
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        publish(temporary, target, overwrite=overwrite, durable=durable)
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _ADVICE:
            raise
        raise cannot_write(target, error) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def publish(temporary: Path, target: Path, *, overwrite: bool, durable: bool = True) -> None:
    """Rename a finished file to its final name in the same folder.

    Without `overwrite` the temporary name may remain as a second hard link, which the caller removes.

    Args:
        temporary: The finished file, already flushed to disk.
        target: The final name.
        overwrite: Whether an existing regular file may be replaced.
        durable: Whether to wait until the new name is on the disk.

    Raises:
        OutputError: If the target can't be written, or exists and `overwrite` is False.
    """
    check_writable_target(target, overwrite=overwrite)  # again: it may have changed during the write
    if overwrite:
        temporary.replace(target)
    else:
        try:
            os.link(temporary, target)  # unlike a rename, this fails if the target exists by now
        except FileExistsError:
            raise OutputError(f"{target}: was created by another process meanwhile; nothing was overwritten") from None
        except OSError:  # a file system without hard links
            temporary.replace(target)
    if durable:
        _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Flush the folder to disk if the system supports this, so that the rename survives a power failure."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")


def cannot_write(target: Path, error: OSError | ValueError) -> OutputError:
    """Convert a system error to an OutputError with advice."""
    number = error.errno if isinstance(error, OSError) else None
    reason = _ADVICE.get(number) if number is not None else None
    return OutputError(f"{str(target)!r}: can't be written: {reason or error}")


def is_export(path: Path) -> bool:
    """Return whether a regular file looks like one that `segnets.export` or `segnets.join_onnx` wrote.

    Only the directory of an archive or the start of an ONNX model is read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
            if not start.startswith(b"PK"):
                return is_our_onnx(start)
            with zipfile.ZipFile(file) as archive:
                return any(map(is_contract, archive.namelist()))
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):
        return False


def is_contract(name: str) -> bool:
    """Return whether this is the name of the contract in an exported archive (`segnets.deploy.contract`)."""
    return name.endswith(("/extra/segnets.json", "/segnets/segnets.json"))


def is_our_onnx(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of an ONNX model whose producer is segnets."""
    return start[:1] == b"\x08" and b"\x12\x07segnets" in start[:16]
