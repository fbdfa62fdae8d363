"""Read a file once, into a buffer that other processes can't change.

A memory map would be as fast, but the process would be killed (SIGBUS) if another process truncated the file.
"""

from __future__ import annotations

import hashlib
import os
import queue
import stat
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from segnets.errors import WeightsError
from segnets.memory import available_memory
from weights_tools.reader.identify import explain_folder

_CHUNK = 4 << 20
_ALIGNMENT = 64  # alignment of every storage in torch's zip files; in an aligned buffer, tensors can be views
_KEPT_FREE = 64 << 20
_SMALL = 1 << 20  # bytes; below this, starting a thread costs more than it saves


class Content(Protocol):
    """The bytes of a checkpoint, from one file (`Source`) or several (`reader.shards.Shards`)."""

    @property
    def path(self) -> Path:
        """The file that the user named."""
        ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that is read."""
        ...

    @property
    def size(self) -> int:
        """Total size in bytes."""
        ...

    @property
    def loaded(self) -> bool:
        """True if all bytes are in memory."""
        ...

    def view(self, start: int, count: int) -> memoryview:
        """Return `count` bytes from `start`."""
        ...

    def sha256(self) -> str:
        """Return the sha256 in hex digits."""
        ...


class Source:
    """One regular file, opened for reading; `view` returns some of its bytes, `load` reads all into memory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.paths: tuple[Path, ...] = (self.path,)
        self._descriptor, self._status = _open_regular(self.path)
        self.size = self._status.st_size
        self.buffer: npt.NDArray[np.uint8] | None = None
        self._workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="weights-tools")
        self._sha256: Future[str] | str | None = None

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.shutdown(wait=True)
        os.close(self._descriptor)

    @property
    def loaded(self) -> bool:
        """True if all bytes are in memory."""
        return self.buffer is not None

    def view(self, start: int, count: int) -> memoryview:
        """Return `count` bytes from `start`; raise WeightsError if the file is too short."""
        if start < 0 or count < 0 or start + count > self.size:
            raise WeightsError("the file refers to bytes beyond its end: it is damaged or truncated")
        if self.buffer is not None:
            return self.buffer.data[start : start + count]
        data = os.pread(self._descriptor, count, start)
        while len(data) < count:
            more = os.pread(self._descriptor, count - len(data), start + len(data))
            if not more:
                raise WeightsError("the file became shorter while it was read. Try again when no process writes to it.")
            data += more
        return memoryview(data)

    def load(self) -> None:
        """Read the whole file into `buffer` and start computing its hash.

        Raises:
            WeightsError: If the file is larger than the free memory, or changes meanwhile.
        """
        require_memory(self.size)
        buffer = _aligned(self.size)
        if self.size < _SMALL:
            self._fill(buffer.data, None)
            self._sha256 = hashlib.sha256(buffer.data).hexdigest()
            self.buffer = buffer
            return
        arrived: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._sha256 = self._workers.submit(_hash, arrived)  # on another CPU core, while the file is read
        try:
            self._fill(buffer.data, arrived)
        finally:
            arrived.put(None)
        self.buffer = buffer

    def _fill(self, target: memoryview, arrived: queue.SimpleQueue[memoryview | None] | None) -> None:
        position = 0
        while position < self.size:
            count = os.preadv(self._descriptor, [target[position : position + _CHUNK]], position)
            if count == 0:
                break
            if arrived is not None:
                arrived.put(target[position : position + count])
            position += count
        now = os.fstat(self._descriptor)
        same = (now.st_size, now.st_mtime_ns) == (self._status.st_size, self._status.st_mtime_ns)
        if position != self.size or not same:
            raise WeightsError("the file changed while it was read. Try again when no process writes to it.")

    def sha256(self) -> str:
        """Return the sha256 of the bytes that `load` read, as 64 hexadecimal digits."""
        if self._sha256 is None:
            raise RuntimeError("call load() before sha256()")
        return self._sha256 if isinstance(self._sha256, str) else self._sha256.result()

    def checksums(self, spans: list[tuple[int, int]]) -> list[int]:
        """Return the CRC-32 of each (start, count), computed on two CPU cores for large files."""
        spread = map if self.size < _SMALL else self._workers.map
        return list(spread(lambda span: zlib.crc32(self.view(*span)), spans))


def _open_regular(path: Path) -> tuple[int, os.stat_result]:
    try:
        status = path.stat()  # checked first: opening a pipe could block, opening a device could act
        _require_regular(path, status)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except WeightsError:
        raise
    except FileNotFoundError:
        what = "the symbolic link points to a missing file" if path.is_symlink() else "the file does not exist"
        raise WeightsError(f"{what}. Check the name.") from None
    except PermissionError:
        raise WeightsError("the file can't be read: permission denied") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"the file can't be opened: {reason}") from None
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status


def _require_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise WeightsError(explain_folder(path))
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError(
            "the path is a device, pipe or socket, not a regular file. Save its content to a file first."
        )


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    try:
        room = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    except MemoryError:
        raise WeightsError(f"the file is larger ({size / 1e9:.1f} GB) than the free memory") from None
    skip = -room.ctypes.data % _ALIGNMENT
    return room[skip : skip + size]


def require_memory(size: int) -> None:
    """Raise WeightsError if `size` bytes exceed the free memory, where the system reports that."""
    free = available_memory()
    if free is not None and size + _KEPT_FREE > free:
        raise WeightsError(
            f"the file is larger ({size / 1e9:.1f} GB) than the free memory ({free / 1e9:.1f} GB). "
            "Convert it on a machine with more memory."
        )


def _hash(arrived: queue.SimpleQueue[memoryview | None]) -> str:
    digest = hashlib.sha256()
    while (part := arrived.get()) is not None:
        digest.update(part)
    return digest.hexdigest()
