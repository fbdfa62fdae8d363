"""Segment many image files into a folder: a job that can be interrupted, resumed and divided."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath

from segnets.card import JSON
from segnets.errors import ImageError, OutputError, PredictError
from segnets.files import atomic_write, cannot_write
from segnets.images import image_size
from segnets.inference.journal import Entry, Journal, stamp_of
from segnets.inference.manifest import Manifest
from segnets.inference.names import output_names
from segnets.inference.prediction import Prediction
from segnets.inference.predictor import Predictor
from segnets.inference.sources import Item
from segnets.inference.writers import FileWriter, TableWriter

_SAMPLED = 20  # images whose headers are read to estimate the space that is needed


@dataclass(frozen=True)
class JobOptions:
    """How a job runs and what it writes.

    Attributes:
        folder: Output folder; it is made if its parent exists.
        files: Writers of one file per image, by name.
        tables: Writers of one file per run, by name.
        batch_size: Number of images to compute together; None for the predictor's choice.
        workers: Number of threads that decode images and write files.
        resume: Whether to go on with the run that is recorded in the folder.
        overwrite: Whether the folder may contain files, which are replaced.
        fail_fast: Whether to stop at the first image that fails.
        shard: Number of this shard, from 1, and of all shards.
        manifest: File that receives one JSON line per image, or None.
    """

    folder: Path
    files: Mapping[str, FileWriter]
    tables: Mapping[str, TableWriter]
    batch_size: int | None = None
    workers: int = 2
    resume: bool = False
    overwrite: bool = False
    fail_fast: bool = False
    shard: tuple[int, int] = (1, 1)
    manifest: Path | None = None


@dataclass
class Summary:
    """What a job did; `str()` is its closing line.

    Attributes:
        folder: Output folder.
        images: Number of images with complete outputs.
        kept: How many of these an earlier run had completed.
        failed: Number of images that failed.
        seconds: Duration, without loading the model.
        tables: Files that hold results of all images.
    """

    folder: Path
    images: int = 0
    kept: int = 0
    failed: int = 0
    seconds: float = 0.0
    tables: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images per second that were segmented in this run."""
        return (self.images - self.kept + self.failed) / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        """Format the summary in one line."""
        total = self.images + self.failed
        parts = [f"{total} {'image' if total == 1 else 'images'}"]
        if self.kept:
            parts.append(f"{self.kept} already done")
        parts += [f"{self.failed} failed", f"{self.rate:.1f} images/s"]
        return f"{', '.join(parts)}: {self.folder}"

    def to_json(self) -> dict[str, JSON]:
        """Return the fields as JSON values."""
        return {**asdict(self), "folder": str(self.folder), "rate": self.rate}


class Job:
    """One run over image files.

    Args:
        predictor: Predictor to run.
        items: Every image, also those of other shards, in order.
        options: How the job runs and what it writes.
        run: What the outputs are made with, as JSON values; a folder made with something else is not resumed.
        tell: Function that receives messages about images.
        step: Function that is called after each image.

    Raises:
        PredictError: If there is nothing to write, or the shard does not exist.
        OutputError: If the folder can't be used.
    """

    def __init__(
        self,
        predictor: Predictor,
        items: Sequence[Item],
        options: JobOptions,
        run: Mapping[str, JSON],
        tell: Callable[[str], None],
        step: Callable[[Summary], None],
    ) -> None:
        number, of = options.shard
        if not 1 <= number <= of:
            raise PredictError(f"shard {number}/{of}: expected 1/{of} to {of}/{of}")
        if not options.files and not options.tables:
            raise PredictError("nothing to write: choose at least one output (--save mask)")
        self._predictor, self._options = predictor, options
        self._tell, self._step = tell, step
        endings = [writer.suffix for writer in options.files.values()] or [""]
        names = output_names([item.relative or PurePath(item.source) for item in items], endings)
        self._work = [_Task(item, str(name)) for item, name in zip(items, names, strict=True)][number - 1 :: of]
        self._journal = Journal(options.folder, run, options.shard)
        self.summary = Summary(options.folder)

    @property
    def total(self) -> int:
        """Number of images of this shard."""
        return len(self._work)

    def execute(self) -> Summary:
        """Segment the images that are left.

        Returns:
            What was done.

        Raises:
            OutputError: If something can't be written; the run can be resumed.
            PredictError: If the folder was made with another model or other options.
            ImageError: If an image fails and `fail_fast` is set.
        """
        options, started = self._options, time.monotonic()
        self._prepare_folder()
        self._check_inputs_are_safe()
        self._check_space()
        self._journal.start()
        try:
            with Manifest(options.manifest, overwrite=options.resume or options.overwrite) as manifest:
                for entry, kept in self._entries():
                    manifest.add(entry)
                    if not kept:
                        self._say(entry)
                    self._count(entry, kept)
                    self.summary.seconds = time.monotonic() - started
                    self._step(self.summary)
                    if entry.state == "failed" and options.fail_fast:
                        raise ImageError(f"stopped at the first image that failed: {entry.source}")
            keys = [task.key for task in self._work]
            self._journal.finish(keys)
            self._write_tables(keys)
        finally:
            self._journal.close()
        self.summary.seconds = time.monotonic() - started
        return self.summary

    def _prepare_folder(self) -> None:
        """Make the folder, or check that its contents may be kept or replaced; find what is complete."""
        options, folder = self._options, self._options.folder
        try:
            folder.mkdir(exist_ok=True)
            empty = not any(folder.iterdir())
        except OSError as error:
            raise cannot_write(folder, error) from None
        joins = options.shard[1] > 1 and Journal.exists(folder) and not self._journal.entries()
        if options.overwrite:
            self._journal.clear()
        elif not empty and not options.resume and not joins:
            raise OutputError(
                f"{folder}: is not empty. Choose another folder, go on with an interrupted run (--resume), or let "
                "existing files be replaced (--force)"
            )
        elif not empty:
            self._resume()

    def _resume(self) -> None:
        folder = self._options.folder
        if not Journal.exists(folder):
            raise OutputError(
                f"{folder}: is not empty, and holds no record of a run; choose another folder, or --force"
            )
        if differences := self._journal.differences():
            raise PredictError(
                f"{folder}: was made differently ({'; '.join(differences)}). Run with the same model and options, or "
                "write to another folder"
            )
        recorded = self._journal.entries()
        for task in self._work:
            entry = recorded.get(task.key)
            if entry is None:
                continue
            if entry.stamp == stamp_of(task.item.path) and entry.is_complete(folder):
                task.kept = entry
            else:
                for path in entry.outputs:  # the image has changed, or an output is damaged
                    (folder / path).unlink(missing_ok=True)

    def _check_inputs_are_safe(self) -> None:
        """Check that no output replaces an image, and that no link leads out of the folder.

        Raises:
            OutputError: If one does.
        """
        folder = os.path.realpath(self._options.folder)
        inside = {
            path
            for task in self._work
            if task.item.path
            if (path := os.path.realpath(task.item.path)).startswith(folder)
        }
        folders: dict[str, str] = {}
        for task in self._work:
            for writer in self._options.files.values():
                parent, _, name = f"{folder}/{task.name}{writer.suffix}".rpartition("/")
                real = folders.setdefault(parent, os.path.realpath(parent))
                if os.path.commonpath([real, folder]) != folder:
                    raise OutputError(f"{parent}: is a link that leads out of {self._options.folder}; remove it")
                if f"{real}/{name}" in inside:
                    raise OutputError(
                        f"{parent}/{name}: is one of the images, which would be replaced; choose another --out"
                    )

    def _check_space(self) -> None:
        """Check that the outputs fit on the disk, by a low estimate from the headers of some images.

        Raises:
            OutputError: If they don't.
        """
        todo = [task.item for task in self._work if task.kept is None]
        pixels = []
        for item in todo[:: max(1, len(todo) // _SAMPLED)]:
            with contextlib.suppress(ImageError):
                if item.path is not None:
                    height, width = image_size(item.path)
                    pixels.append(height * width)
        if not pixels:
            return
        per_pixel = sum(_bytes_per_pixel(name, len(self._predictor.classes)) for name in self._options.files)
        needed = per_pixel * len(todo) * sum(pixels) / len(pixels)
        free = shutil.disk_usage(self._options.folder).free
        if needed > free:
            raise OutputError(
                f"{self._options.folder}: {len(todo)} images need about {needed / 1e9:.1f} GB or more, and "
                f"{free / 1e9:.1f} GB are free; choose another disk, fewer outputs (--save), or a part (--shard)"
            )

    def _entries(self) -> Iterator[tuple[Entry, bool]]:
        """Yield the entry of each image in order, and whether an earlier run recorded it."""
        size = self._options.batch_size or 1
        todo = [
            task
            for start in range(0, len(self._work), size)
            # Whole batches are computed again, because the last bits may depend on the batch.
            if any(task.kept is None for task in self._work[start : start + size])
            for task in self._work[start : start + size]
        ]
        computed = self._predictor.run(
            (task.item for task in todo),
            lambda number, prediction: self._written(todo[number], prediction),
            self._options.batch_size,
            self._options.workers,
        )
        with contextlib.closing(computed):
            again = iter(todo)
            following = next(again, None)
            for task in self._work:
                entry = task.kept
                if task is following:
                    computed_entry = next(computed)
                    following = next(again, None)
                    if entry is None:
                        self._journal.append(computed_entry)
                        entry = computed_entry
                assert entry is not None  # it is kept, or was computed
                yield replace(entry, tables={}), task.kept is not None

    def _written(self, task: _Task, prediction: Prediction) -> Entry:
        """Write the outputs of one image. Runs in a worker.

        Raises:
            OutputError: If a file can't be written, which ends the job.
        """
        if task.kept is not None:
            return task.kept
        entry = Entry(
            task.item.source,
            task.name,
            stamp_of(task.item.path),
            notices=prediction.notices,
            reason=str(prediction.error),
        )
        started = time.perf_counter()
        outputs: dict[str, int] = {}
        try:
            if prediction.error is not None:
                raise prediction.error
            for writer in self._options.files.values():
                name = f"{task.name}{writer.suffix}"
                path = self._options.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path, durable=False) as file:
                    writer.write(prediction, file)
                    outputs[name] = file.tell()
            tables = {name: writer.record(prediction) for name, writer in self._options.tables.items()}
        except ImageError as error:
            for name in outputs:
                (self._options.folder / name).unlink(missing_ok=True)
            return replace(entry, state="failed", reason=_naming(task.item.source, error))
        seconds = {**asdict(prediction.seconds), "write": time.perf_counter() - started}
        height, width = prediction.mask.shape[-2:]
        return replace(entry, reason="", outputs=outputs, size=(height, width), seconds=seconds, tables=tables)

    def _count(self, entry: Entry, kept: bool) -> None:
        if entry.state == "failed":
            self.summary.failed += 1
        else:
            self.summary.images += 1
            self.summary.kept += kept

    def _say(self, entry: Entry) -> None:
        for notice in entry.notices:
            self._tell(f"{entry.source}: {notice}")
        if entry.state == "failed":
            self._tell(entry.reason)

    def _write_tables(self, keys: Sequence[tuple[str, str]]) -> None:
        """Write the files that hold results of all images, from the journal."""
        number, of = self._options.shard
        for name, writer in self._options.tables.items():
            file_name = PurePath(writer.file_name)
            if of > 1:
                file_name = file_name.with_suffix(f".{number}-of-{of}{file_name.suffix}")
            records = (
                (entry.source, *entry.size, entry.tables[name])
                for entry in self._journal.ordered(keys)
                if entry.size is not None  # it did not fail
            )
            with atomic_write(self._options.folder / file_name) as file:
                writer.assemble(records, self._predictor.classes, self._predictor.palette, file)
            self.summary.tables.append(str(file_name))


@dataclass
class _Task:
    """An image of the job.

    Attributes:
        item: The image.
        name: Name of its outputs.
        kept: Its recorded entry if it is complete.
    """

    item: Item
    name: str
    kept: Entry | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.item.source, self.name


def _naming(source: str, error: Exception) -> str:
    return str(error) if source in str(error) else f"{source}: {error}"


def _bytes_per_pixel(output: str, classes: int) -> float:
    """Return a low estimate of the size of an output."""
    return {"mask": 0.01, "overlay": 0.05, "confidence": 0.1, "probabilities": 0.2 * classes}.get(output, 0.0)
