"""Manage the partial file NAME.part next to its target: locked by one process, kept if the download fails.

Writes are unbuffered, so a killed process loses nothing. NAME.part.json records which version of the file the server
was sending.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path

from segnets.errors import OutputError
from segnets.files import cannot_write, check_writable_target, publish

SUFFIX = ".part"


class Partial:
    """An open partial file.

    Attributes:
        path: Its path, NAME.part.
        size: Bytes in it.
        kept: Bytes in it from an earlier call.
    """

    def __init__(self, target: Path, file: FileIO) -> None:
        self.path = _path(target)
        self.size = file.seek(0, os.SEEK_END)
        self.kept = self.size
        self._target = target
        self._record = self.path.with_name(f"{self.path.name}.json")
        self._file = file

    def validators(self, url: str) -> dict[str, str]:
        """Return the recorded version from the server at `url`: "ETag" and "Last-Modified" if known."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}  # the final hash decides
        if not isinstance(record, dict) or record.get("url") != url:
            return {}
        known = {name: record.get(name) for name in ("ETag", "Last-Modified")}
        return {name: text for name, text in known.items() if isinstance(text, str) and _may_be_sent(text)}

    def begin(self, url: str, headers: Mapping[str, str]) -> None:
        """Start from zero and record the version in the response headers."""
        self.clear()
        record = {"url": url, **{name: headers[name] for name in ("ETag", "Last-Modified") if name in headers}}
        with self._as_output_error():
            check_writable_target(self._record)
            self._record.write_text(json.dumps(record), encoding="utf-8")

    def clear(self) -> None:
        """Drop all bytes."""
        with self._as_output_error():
            self._file.truncate(0)
            self._file.seek(0)
        self.size = self.kept = 0

    def write(self, block: bytes) -> None:
        """Append a block. If this raises OutputError, for example on a full disk, the earlier bytes are kept."""
        rest = memoryview(block)
        with self._as_output_error():
            while rest:
                written = self._file.write(rest)
                self.size += written
                rest = rest[written:]

    def sha256(self) -> str:
        """Return the sha256 of the bytes on disk."""
        with self._as_output_error():
            return sha256(self.path)

    def publish(self, *, overwrite: bool) -> None:
        """Flush the file to the disk and rename it to the target; raise OutputError if that fails."""
        with self._as_output_error():
            os.fsync(self._file.fileno())
            publish(self.path, self._target, overwrite=overwrite)
            self.remove()

    def remove(self) -> None:
        """Delete the partial file and its record."""
        for path in (self._record, self.path):  # in this order: a part without its record can still be resumed
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock; delete the partial file if it is empty."""
        with contextlib.suppress(OSError):
            if self.size == 0 and _is_at(self._file, self.path):
                self.remove()
        self._file.close()

    def advice(self) -> str:
        """Return the end of an error message: how many bytes are kept and how to resume."""
        return f" {self.size:,} bytes are kept in {self.path}. Repeat the call to resume." if self.size else ""

    @contextlib.contextmanager
    def _as_output_error(self) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            reason = str(cannot_write(self.path, error)).removesuffix(".")
            raise OutputError(f"{reason}.{self.advice()}") from None


@contextlib.contextmanager
def open_partial(target: Path, waiting: Callable[[], None]) -> Iterator[Partial]:
    """Open and lock the partial file of a target.

    Args:
        target: The file to be downloaded.
        waiting: Called before waiting for another process that holds the lock.

    Raises:
        OutputError: If the partial file can't be written, or is not a regular file.
    """
    path = _path(target)
    file = _open(path)
    try:
        _lock(file, waiting)
        # The process that held the lock may have renamed or removed the file.
        while not _is_at(file, path):
            file.close()
            file = _open(path)
            _lock(file, waiting)
        partial = Partial(target, file)
    except BaseException:
        file.close()
        raise
    try:
        yield partial
    finally:
        partial.close()


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hex digits; raise OSError if it can't be read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _path(target: Path) -> Path:
    return target.with_name(target.name + SUFFIX)


def _open(path: Path) -> FileIO:
    check_writable_target(path)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags, 0o666)  # the kernel applies the umask
    except OSError as error:
        raise cannot_write(path, error) from None
    file = FileIO(descriptor, "r+b")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # swapped between check and open
        file.close()
        raise OutputError(f"{path}: the partial file is not a regular file. Remove it.")
    return file


def _lock(file: FileIO, waiting: Callable[[], None]) -> None:
    """Wait until no other process writes to the file. Without file locks, only the hash protects the target."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _may_be_sent(text: str) -> bool:
    """Return whether a string from the untrusted record may be sent in a header."""
    return text.isascii() and text.isprintable() and len(text) < 1000


def if_range(validators: Mapping[str, str]) -> str | None:
    """Return the value of If-Range: a strong ETag, else the date. Equal weak ETags do not mean equal bytes."""
    etag = validators.get("ETag", "")
    return etag if etag.startswith('"') else validators.get("Last-Modified")
