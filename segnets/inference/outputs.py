"""Outputs of one image or video of a job. Files appear complete or not at all."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from segnets.errors import ImageError
from segnets.files import atomic_write, cannot_write
from segnets.inference.journal import Entry, stamp_of
from segnets.inference.prediction import Prediction
from segnets.inference.sources import Item
from segnets.inference.writers import FileWriter, TableWriter

# The limit is the same on Linux, macOS and Windows.
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Writers:
    """Writers of a job's outputs.

    Attributes:
        files: Writers of one file per image, by name.
        tables: Writers of one file per run, by name.
    """

    files: Mapping[str, FileWriter]
    tables: Mapping[str, TableWriter]

    @property
    def endings(self) -> list[str]:
        """Return the suffixes of one image's outputs, including the GeoTIFF of a georeferenced image."""
        return [writer.suffix for writer in self.files.values()] + [".tif"] * ("mask" in self.files)


@dataclass
class Task:
    """One image or video of a job.

    Attributes:
        item: The image or video.
        name: Name of its outputs relative to the folder, without suffix.
        kept: Entry of an earlier run if the outputs are complete, else None.
    """

    item: Item
    name: str
    kept: Entry | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Source and name, as in `Entry.key`."""
        return self.item.source, self.name

    def failed(self, error: ImageError, notices: tuple[str, ...] = ()) -> Entry:
        """Return the entry of a failed image."""
        reason = str(error) if self.item.source in str(error) else f"{self.item.source}: {error}"
        return replace(self.entry(), state="failed", reason=reason, notices=notices)

    def entry(self) -> Entry:
        """Return an entry without outputs."""
        return Entry(self.item.source, self.name, stamp_of(self.item.path))


class Outputs:
    """Files that belong together. If the `with` block raises an error, even complete ones are removed.

    Args:
        folder: Output folder.

    Attributes:
        sizes: Size in bytes of each complete file, by its path relative to the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sizes: dict[str, int] = {}

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):  # files written before Ctrl-C are kept
            for name in self.sizes:
                (self._folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for writing. It gets its final name at the end of the `with` block.

        Raises:
            OutputError: If the file can't be written.
        """
        with atomic_write(self.path(name), durable=False) as file:
            yield file
            self.sizes[name] = file.seek(0, 2)

    def path(self, name: str) -> Path:
        """Return the path of a file, and create its folder.

        Raises:
            ImageError: If the name is too long for the file system.
            OutputError: If the folder can't be created.
        """
        path = self._folder / name
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise ImageError(f"the name of its output {path.name!r} is too long for a file system; shorten its name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path.parent, error) from None
        return path

    def add(self, name: str) -> None:
        """Record a file that was not written through `open`."""
        self.sizes[name] = (self._folder / name).stat().st_size


def write_image(task: Task, prediction: Prediction, writers: Writers, folder: Path) -> Entry:
    """Write the outputs of one image.

    Args:
        task: The image.
        prediction: Its prediction.
        writers: Writers of the outputs.
        folder: Output folder.

    Returns:
        The image's entry, even if the image failed.

    Raises:
        OutputError: If a file can't be written.
    """
    started = time.perf_counter()
    if prediction.error is not None:
        return task.failed(prediction.error, prediction.notices)
    try:
        with Outputs(folder) as outputs:
            for writer in writers.files.values():
                with outputs.open(f"{task.name}{writer.suffix}") as file:
                    writer.write(prediction, file)
            tables = {name: writer.record(prediction) for name, writer in writers.tables.items()}
    except ImageError as error:
        return task.failed(error, prediction.notices)
    return replace(
        task.entry(),
        notices=prediction.notices,
        outputs=outputs.sizes,
        size=(prediction.height, prediction.width),
        seconds={**asdict(prediction.seconds), "write": time.perf_counter() - started},
        tables=tables,
    )
