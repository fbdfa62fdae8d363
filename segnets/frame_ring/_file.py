"""The file of a ring: made complete with its memory, opened, and the locks by which each side shows that it lives.

Locks are Linux's open file description locks: unlike those that belong to a process they also exclude a second user in
the same process, and the kernel drops them when the process ends, however it ends.
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
from segnets.frame_ring._layout import FIXED_SIZE, HEADER_SIZE, FrameLayout, decode, encode

Role = Literal["producer", "consumer"]

_BYTE_OF = {"producer": 0, "consumer": 1}
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, process


def check_platform() -> None:
    """Raises FrameRingError where stores of Python can't be relied on to appear in order, or the locks don't exist."""
    if sys.platform != "linux":
        raise FrameRingError(f"FrameRing needs the locks of Linux; this is {sys.platform}")
    if platform.machine() not in ("x86_64", "AMD64") or sys.maxsize < 1 << 32:
        raise FrameRingError(
            f"FrameRing in Python relies on the order of stores of 64-bit x86; this is {platform.machine()}: "
            "use segnets::FrameRing of C++ on both sides"
        )


def create_file(path: Path, layout: FrameLayout, role: Role) -> int:
    """A descriptor of the new file, which appears complete and with the role taken.

    Raises OutputError if it can't be written or exists.
    """
    with atomic_write(path, overwrite=False) as file:
        # Taken now: a full /dev/shm must refuse the ring, and not kill a process at some later frame (SIGBUS).
        os.posix_fallocate(file.fileno(), 0, layout.file_size)
        file.write(encode(layout))
        file.flush()
        descriptor = os.dup(file.fileno())  # shares the lock, which therefore outlives `file`
        try:
            take(descriptor, role, path)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def open_file(path: Path, role: Role) -> tuple[int, FrameLayout]:
    """A descriptor of a ring's file, with the role taken, and what its header says. Raises FrameRingError."""
    try:
        mode = path.stat().st_mode  # before opening: a device could do something then
        if stat.S_ISDIR(mode):
            raise FrameRingError(f"{path}: is a folder; name the file that the other side created")
        if not stat.S_ISREG(mode):
            raise FrameRingError(f"{path}: is a device, pipe or socket, not a ring of frames")
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise FrameRingError(f"{path}: does not exist; start the side that creates the ring first") from None
    except OSError as error:
        raise FrameRingError(f"{path}: can't be opened for reading and writing: {error.strerror}") from None
    try:
        size = os.fstat(descriptor).st_size
        if size < HEADER_SIZE:
            raise FrameRingError(
                f"{path}: is {size} bytes, and a ring of frames has at least {HEADER_SIZE}; "
                "remove the file and create the ring again"
            )
        layout = decode(os.pread(descriptor, FIXED_SIZE, 0), size, str(path))
        take(descriptor, role, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, layout


def take(descriptor: int, role: Role, path: Path) -> None:
    """Raises FrameRingError if somebody has this role already."""
    import fcntl  # not on every system that imports segnets

    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _byte(role, fcntl.F_WRLCK))
    except (BlockingIOError, PermissionError):
        raise FrameRingError(
            f"{path}: has a {role} already, and a ring has only one; close that one or name another ring"
        ) from None


def give_up(descriptor: int, role: Role) -> None:
    import fcntl

    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _byte(role, fcntl.F_UNLCK))


def is_taken(descriptor: int, role: Role) -> bool:
    """Whether another descriptor than this one has the role."""
    import fcntl

    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _byte(role, fcntl.F_WRLCK))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _byte(role: Role, kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, _BYTE_OF[role], 1, 0)
