"""The file of a frame ring, and the locks that show which sides are alive.

The locks are Linux's open file description locks. Unlike process locks, they also exclude a second user in the same
process. The kernel releases them when the process ends for any reason.
"""

from __future__ import annotations

import os
import platform
import stat
import struct
import sys
from pathlib import Path
from typing import Literal

from segnets.errors import FrameRingError
from segnets.files import atomic_write
from segnets.frame_ring._layout import FIXED_SIZE, FrameLayout, decode, encode

Role = Literal["producer", "consumer"]

_BYTE_OF = {"producer": 0, "consumer": 1}
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, process


def check_platform() -> None:
    """Check that this platform has the file locks and the store order that the Python side relies on.

    Raises:
        FrameRingError: If the system is not Linux, or the CPU is not 64-bit x86.
    """
    if sys.platform != "linux":
        raise FrameRingError(f"FrameRing needs Linux's file locks; this is {sys.platform}")
    if platform.machine() not in ("x86_64", "AMD64") or sys.maxsize < 1 << 32:
        raise FrameRingError(
            f"FrameRing in Python relies on the store order of 64-bit x86; this is {platform.machine()}: "
            "use segnets::FrameRing in C++ on both sides"
        )


def create_file(path: Path, layout: FrameLayout, role: Role) -> int:
    """Create the file of a ring atomically, with the role already locked.

    Args:
        path: Path of the new file.
        layout: Layout of the frames.
        role: Role of this side.

    Returns:
        A file descriptor that holds the lock.

    Raises:
        OutputError: If the file exists or can't be written.
        FrameRingError: If the role can't be locked.
    """
    with atomic_write(path, overwrite=False) as file:
        # Allocate the memory now: a full /dev/shm must fail here, not kill a process at a later frame (SIGBUS).
        os.posix_fallocate(file.fileno(), 0, layout.file_size)
        file.write(encode(layout))
        file.flush()
        descriptor = os.dup(file.fileno())  # shares the lock, which must outlive `file`
        try:
            lock_role(descriptor, role, path)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def open_file(path: Path, role: Role) -> tuple[int, FrameLayout]:
    """Open the file of a ring and lock the role.

    Args:
        path: Path of the file.
        role: Role of this side.

    Returns:
        A file descriptor that holds the lock, and the layout from the header.

    Raises:
        FrameRingError: If the file can't be opened, is not a valid ring, or the role is already locked.
    """
    try:
        mode = path.stat().st_mode  # before opening, which can have side effects on a device
        if stat.S_ISDIR(mode):
            raise FrameRingError(f"{path}: is a folder; pass the file that the other side created")
        if not stat.S_ISREG(mode):
            raise FrameRingError(f"{path}: is a device, pipe or socket, not a frame ring")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise FrameRingError(f"{path}: does not exist; start the side that creates the ring first") from None
    except OSError as error:
        raise FrameRingError(f"{path}: can't be opened for reading and writing: {error.strerror}") from None
    try:
        size = os.fstat(descriptor).st_size
        layout = decode(os.pread(descriptor, FIXED_SIZE, 0), size, str(path))
        lock_role(descriptor, role, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, layout


def lock_role(descriptor: int, role: Role, path: Path) -> None:
    """Lock a role of the ring.

    Raises:
        FrameRingError: If another descriptor has locked the role.
    """
    import fcntl  # does not exist on Windows

    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _byte(role, fcntl.F_WRLCK))
    except (BlockingIOError, PermissionError):
        raise FrameRingError(
            f"{path}: already has a {role}, and a ring has only one; close that one or choose another ring"
        ) from None


def unlock_role(descriptor: int, role: Role) -> None:
    """Unlock a role that this descriptor has locked."""
    import fcntl

    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _byte(role, fcntl.F_UNLCK))


def is_role_locked(descriptor: int, role: Role) -> bool:
    """Return whether a descriptor other than this one has locked the role."""
    import fcntl

    lock = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _byte(role, fcntl.F_WRLCK))
    return bool(_FLOCK.unpack(lock)[0] != fcntl.F_UNLCK)


def _byte(role: Role, lock_type: int) -> bytes:
    return _FLOCK.pack(lock_type, os.SEEK_SET, _BYTE_OF[role], 1, 0)
