"""Output paths that every function and command must refuse, and the reason that each gives."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

LINK = "is a symbolic link, which would be replaced; pass the file that it points to"
SPECIAL = "is a device, pipe or socket, not a regular file; choose another name"


def _link(path: Path) -> None:
    path.with_name("real").write_bytes(b"precious")
    path.symlink_to("real")


def _hard_link(path: Path) -> None:
    path.with_name("real").write_bytes(b"precious")
    path.hardlink_to(path.with_name("real"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _device(path: Path) -> None:
    """Make a new node with the numbers of /dev/null; the real one must never be tried."""
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device node")


# What stands at the path, and the reason, also where replacing is asked for.
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "link": (_link, LINK),
    "dangling link": (lambda path: path.symlink_to("nowhere"), LINK),
    "loop of links": (lambda path: path.symlink_to(path.name), LINK),
    "hard link": (_hard_link, "has 2 hard links, which a replacement would separate"),
    "folder": (lambda path: path.mkdir(), "is a folder; pass a file in it"),
    "pipe": (lambda path: os.mkfifo(path), SPECIAL),
    "socket": (_socket, SPECIAL),
    "device": (_device, SPECIAL),
}

# Names at which no file can be created; a regular file called "file" is in the folder.
INVALID_NAMES = {
    "missing/a": "the folder .*missing does not exist; create it first",
    "file/a": "part of the path is not a folder",
    "x" * 256: "the name is too long",
    "a\0b": "can't be written: .*null",
}

UNUSUAL_NAMES = ("with space", "new\nline", "-leading", "a'b\"c;$(x)", "\N{OCTOPUS}", "~", "x" * 255, "a..b")


def state_of(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return inode, mode, size and the bytes of regular files, by name."""
    found = {}
    for path in folder.iterdir():
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[path.name] = (status.st_ino, status.st_mode, status.st_size, content)
    return found
