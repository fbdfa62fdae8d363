"""The partial file NAME.part beside its target: locked by one process, kept when the download breaks off.

What is in it reaches the system with every write, so that a killed process loses nothing. NAME.part.json remembers
which version of the file the server was sending.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from io import FileIO
from pathlib import Path

from segnets.errors import OutputError
from segnets.files import cannot_write, check_writable_target, publish

SUFFIX = ".part"


class Partial:
    """An open partial file. path: where; size: bytes in it; kept: how many of them an earlier call had left."""

    def __init__(self, target: Path, file: FileIO) -> None:
        self.path = _path(target)
        self.size = file.seek(0, os.SEEK_END)
        self.kept = self.size
        self._target = target
        self._note = self.path.with_name(f"{self.path.name}.json")
        self._file = file

    def validators(self, url: str) -> dict[str, str]:
        """What the server at `url` called the version that lies here: "ETag", "Last-Modified", as far as known."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}  # the hash decides in the end
        if not isinstance(note, dict) or note.get("url") != url:
            return {}
        known = {name: note.get(name) for name in ("ETag", "Last-Modified")}
        return {name: text for name, text in known.items() if isinstance(text, str) and _may_be_sent(text)}

    def begin(self, url: str, headers: Message) -> None:
        """Start from zero, with the version that `headers` describe."""
        self.clear()
        note = {"url": url, **{name: headers[name] for name in ("ETag", "Last-Modified") if name in headers}}
        with self._explaining():
            check_writable_target(self._note)
            self._note.write_text(json.dumps(note), encoding="utf-8")

    def clear(self) -> None:
        """Drop what is here."""
        with self._explaining():
            self._file.truncate(0)
            self._file.seek(0)
        self.size = self.kept = 0

    def write(self, block: bytes) -> None:
        """Append. Raises OutputError, on a full disk say; what is there stays."""
        rest = memoryview(block)
        with self._explaining():
            while rest:
                written = self._file.write(rest)
                self.size += written
                rest = rest[written:]

    def sha256(self) -> str:
        """The digest of what lies on the disk, not of what was meant to."""
        with self._explaining():
            return sha256(self.path)

    def publish(self, *, overwrite: bool) -> None:
        """Give the file its name, after it has reached the disk. Raises OutputError."""
        with self._explaining():
            os.fsync(self._file.fileno())
            publish(self.path, self._target, overwrite=overwrite)
            self.remove()

    def remove(self) -> None:
        """Leave nothing behind."""
        for path in (self._note, self.path):  # in this order: a part without its note can still be resumed
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the next process in. An empty part is no use to anybody."""
        with contextlib.suppress(OSError):
            if self.size == 0 and _is_at(self._file, self.path):
                self.remove()
        self._file.close()

    def advice(self) -> str:
        """The end of a message: what of the file is here, and how to go on."""
        return f"; {self.size:,} bytes are kept in {self.path}, and the same call resumes there" if self.size else ""

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"{cannot_write(self.path, error)}{self.advice()}") from None


@contextlib.contextmanager
def open_partial(target: Path, waiting: Callable[[], None]) -> Iterator[Partial]:
    """Open the partial file of `target`, alone; `waiting` is called if another process has it.

    Raises OutputError.
    """
    path = _path(target)
    file = _open(path)
    try:
        _lock(file, waiting)
        # The process that we waited for may have renamed the file or removed it: then it's no longer ours to write to.
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
    """Raises OSError."""
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
        descriptor = os.open(path, flags, 0o666)  # the kernel takes the umask off
    except OSError as error:
        raise cannot_write(path, error) from None
    file = FileIO(descriptor, "r+b")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it was swapped between the look and the opening
        file.close()
        raise OutputError(f"{path}: is not a regular file; remove it")
    return file


def _lock(file: FileIO, waiting: Callable[[], None]) -> None:
    """Wait until no other process writes to the file. Where there are no locks, the hash alone protects the target."""
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
    """Whether a header may hold it: somebody else may have written the note."""
    return text.isascii() and text.isprintable() and len(text) < 1000


def if_range(validators: Mapping[str, str]) -> str | None:
    """The value of the header If-Range: a strong ETag, else the date. A weak ETag does not promise equal bytes."""
    etag = validators.get("ETag", "")
    return etag if etag.startswith('"') else validators.get("Last-Modified")
