"""Writing files so that nothing is ever lost or half there.

`atomic_write` hands out a temporary file beside the target, flushes it to the disk and renames it.
Whoever looks at the target sees the old file or the complete new one, also after a kill or on a full disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path

from segnets.errors import OutputError

TEMPORARY_PREFIX = ".segnets-"
TEMPORARY_SUFFIX = ".tmp"

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file would exceed the size limit in force here (ulimit -f)",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.ENOENT: "its folder does not exist; create it first",
    errno.ENOTDIR: "its folder is not a folder",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ELOOP: "its folder is reached through a loop of symbolic links",
}


def check_writable_target(path: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """Return `path` if a regular file may be created or replaced there.

    Links, devices, pipes and folders are refused: a rename would put a regular file in their place.

    Raises OutputError.
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
        raise OutputError(f"{target}: is a symbolic link, which would be replaced; name the file that it points to")
    if stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{target}: is a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{target}: is a device, pipe or socket, not a regular file; choose another name")
    if status.st_nlink > 1:
        raise OutputError(f"{target}: has {status.st_nlink} hard links, which would come apart; remove it first")
    if not overwrite:
        raise OutputError(f"{target}: exists already; remove it, choose another name, or ask to overwrite (--force)")
    return target


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[BufferedRandom]:
    """Open a temporary file for the body of the `with`; on success it becomes `path`, on failure it is removed.

    The mode of the new file follows the umask. A kill leaves at most a file `.segnets-*.tmp` beside the target.

    Raises OutputError if the target can't be written; what the body raises passes through.
    """
    target = check_writable_target(path, overwrite=overwrite)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)  # the kernel takes the umask off
    except OSError as error:
        raise cannot_write(target, error) from None
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, target, overwrite=overwrite)
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in _ADVICE:
            raise
        raise cannot_write(target, error) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file its name; both lie in one folder. The temporary name may remain as a second link.

    Raises OutputError.
    """
    check_writable_target(target, overwrite=overwrite)  # once more: it may have changed while we wrote
    if overwrite:
        temporary.replace(target)
    else:
        try:
            os.link(temporary, target)  # unlike a rename, this fails if somebody was faster
        except FileExistsError:
            raise OutputError(f"{target}: was created by somebody else meanwhile; nothing was overwritten") from None
        except OSError:  # a file system without hard links
            temporary.replace(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise OutputError(f"{target}: its folder {target.parent} does not exist; create it first")


def cannot_write(target: Path, error: OSError | ValueError) -> OutputError:
    """The error in words that say what to do."""
    number = error.errno if isinstance(error, OSError) else None
    reason = _ADVICE.get(number) if number is not None else None
    return OutputError(f"{str(target)!r}: can't be written: {reason or error}")
