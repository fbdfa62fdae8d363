"""Record of a run in its output folder, from which an interrupted run resumes.

The folder `.segnets` in the output folder holds `run.json`, with the settings that determined the outputs, and a
journal with one JSON line per image. A line is written after the outputs of its image, so an image with a line is
complete.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from segnets.card import JSON
from segnets.errors import OutputError
from segnets.files import atomic_write, cannot_write

FOLDER = ".segnets"
_RUN = "run.json"
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Entry:
    """Outcome of one image.

    Attributes:
        source: The image, as the caller named it.
        name: Name of its outputs relative to the folder, without suffix.
        stamp: Size and modification time of the image file, to detect changes.
        state: "done" or "failed".
        reason: Reason for a failure, or "".
        notices: Assumptions and omissions made when the image was read.
        outputs: Size in bytes of each output, by its path relative to the folder.
        size: Height and width of the mask; None for a failure or a video.
        frames: Number of frames of a video, or 0.
        seconds: Seconds that each step took.
        tables: This image's part of each table, by the table's name.
    """

    source: str
    name: str
    stamp: tuple[int, int] | None = None
    state: str = "done"
    reason: str = ""
    notices: tuple[str, ...] = ()
    outputs: Mapping[str, int] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    frames: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Source and name, which identify an image."""
        return self.source, self.name

    def to_json(self) -> str:
        """Return one line of JSON, in ASCII: names need not be UTF-8."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, line: str) -> Entry:
        """Parse a line that `to_json` wrote.

        Raises:
            ValueError: If the line is incomplete.
        """
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("expected an object")
        for key in ("stamp", "size"):
            values[key] = values.get(key) and tuple(values[key])
        values["notices"] = tuple(values.get("notices", ()))
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None

    def is_complete(self, folder: Path) -> bool:
        """Return whether the image succeeded and all its outputs exist with their recorded sizes."""
        return self.state == "done" and all(_size_of(folder / path) == size for path, size in self.outputs.items())


class Journal:
    """Record of a run, or of one shard of it.

    Args:
        folder: Existing output folder.
        run: Settings that determine the outputs, as JSON values.
        shard: Number of the shard, from 1, and the number of shards.

    Raises:
        OutputError: If another process writes the same journal, or it can't be written.
    """

    def __init__(self, folder: Path, run: Mapping[str, JSON], shard: tuple[int, int] = (1, 1)) -> None:
        self._folder = folder / FOLDER
        self._run = dict(run)
        suffix = "" if shard[1] == 1 else f".{shard[0]}-of-{shard[1]}"
        self._path = self._folder / f"journal{suffix}.jsonl"
        self._file: IO[str] | None = None
        self._lock: IO[str] | None = None

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether a run was recorded in this folder."""
        return (folder / FOLDER / _RUN).is_file()

    def differences(self) -> list[str]:
        """List the differences between this run and the recorded one, for messages. Empty if no run is recorded.

        Raises:
            OutputError: If the record can't be read.
        """
        path = self._folder / _RUN
        if not path.exists():
            return []
        try:
            recorded = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise OutputError(f"{path}: can't be read ({error}); write to another folder, or use --force") from None
        keys = sorted({*recorded, *self._run})
        return [
            f"{key} was {_short(recorded.get(key))} and is {_short(self._run.get(key))}"
            for key in keys
            if recorded.get(key) != self._run.get(key)
        ]

    def entries(self) -> dict[tuple[str, str], Entry]:
        """Return the recorded entries by source and name, without tables. The last entry of an image counts."""
        return {entry.key: replace(entry, tables={}) for _, entry in self._lines()}

    def is_empty(self) -> bool:
        """Return whether no image is recorded."""
        return next(self._lines(), None) is None

    def lock(self) -> None:
        """Keep other processes from writing this journal, until `close` or the end of the process.

        Raises:
            OutputError: If another process is writing it, or the folder can't be written.
        """
        if self._lock is not None:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            file = self._path.with_suffix(".lock").open("w")
        except OSError as error:
            raise cannot_write(self._folder, error) from None
        _take(file, self._folder)
        self._lock = file

    def start(self) -> None:
        """Write the record of the run and open the journal. Recorded entries are kept.

        Raises:
            OutputError: If a file can't be written, or another process is writing the journal.
        """
        self.lock()
        with atomic_write(self._folder / _RUN) as file:
            file.write(json.dumps(self._run, indent=1, sort_keys=True).encode())
        try:
            self._file = self._path.open("a")
            self._file.truncate(self._end())  # drop an incomplete line
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def clear(self) -> None:
        """Remove every entry."""
        self._path.unlink(missing_ok=True)

    def append(self, entry: Entry) -> None:
        """Record one image.

        Raises:
            OutputError: If the line can't be written.
        """
        assert self._file is not None  # started
        try:
            self._file.write(f"{entry.to_json()}\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def finish(self, keys: Iterable[tuple[str, str]]) -> None:
        """Rewrite the journal with one line per image: those of `keys` in order, then any others."""
        offsets = self._offsets()
        with atomic_write(self._path) as file:
            file.writelines(
                f"{entry.to_json()}\n".encode() for entry in self._at(offsets, dict.fromkeys((*keys, *offsets)))
            )

    def ordered(self, keys: Iterable[tuple[str, str]]) -> Iterator[Entry]:
        """Yield the entries of images in the given order, reading one at a time. Skip images without an entry."""
        yield from self._at(self._offsets(), keys)

    def _offsets(self) -> dict[tuple[str, str], int]:
        """Return the offset of the last line of each image."""
        return {entry.key: offset for offset, entry in self._lines()}

    def _at(self, offsets: Mapping[tuple[str, str], int], keys: Iterable[tuple[str, str]]) -> Iterator[Entry]:
        if not offsets:
            return
        with self._path.open("rb") as file:
            for key in keys:
                if key in offsets:
                    file.seek(offsets[key])
                    yield Entry.from_json(file.readline().decode())

    def close(self) -> None:
        """Close the files and release the lock."""
        for file in (self._file, self._lock):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._file = self._lock = None

    def _end(self) -> int:
        """Return the size of the file up to its last line feed."""
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            while size > 0:
                start = max(0, size - _BLOCK)
                file.seek(start)
                found = file.read(size - start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                size = start
        return 0

    def _lines(self) -> Iterator[tuple[int, Entry]]:
        """Yield the entry of each complete line with its offset in the file."""
        offset = 0
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    if line.endswith(b"\n"):
                        yield offset, Entry.from_json(line.decode())
                offset += len(line)


def _take(lock: IO[str], folder: Path) -> None:
    """Lock the journal, and refuse a second process that writes it. The lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise OutputError(f"{folder.parent}: another process is writing to this folder; wait until it ends") from None


def stamp_of(path: Path | None) -> tuple[int, int] | None:
    """Return the size (bytes) and modification time of a file, or None if it does not exist."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
