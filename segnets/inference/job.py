"""Segment many image files into a folder, in a job that can be interrupted, resumed and sharded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path, PurePath

from segnets.card import JSON
from segnets.console import counted
from segnets.errors import ImageError, PredictError
from segnets.files import atomic_write
from segnets.inference.job_options import JobOptions
from segnets.inference.journal import Entry, Journal
from segnets.inference.manifest import Manifest
from segnets.inference.names import output_names
from segnets.inference.networks import descriptions
from segnets.inference.output_folder import OutputFolder
from segnets.inference.outputs import Task, write_image
from segnets.inference.prediction import Prediction
from segnets.inference.predictor import Predictor
from segnets.inference.rasters import is_georeferenced
from segnets.inference.sources import Item
from segnets.inference.sources.video import is_video
from segnets.inference.tile_outputs import write_tiled
from segnets.inference.tiling import divide
from segnets.inference.video_outputs import write_video


@dataclass
class Summary:
    """Counts and duration of a job. `str()` gives its closing line.

    Attributes:
        folder: Output folder.
        images: Number of images and videos with complete outputs.
        kept: Number of these that an earlier run had completed.
        failed: Number of images and videos that failed.
        videos: Number of videos among all images and videos.
        frames: Number of video frames.
        new: Number of images and frames that were segmented in this run.
        seconds: Duration in seconds, excluding loading the model.
        tables: Paths of the files that hold results of all images.
    """

    folder: Path
    images: int = 0
    kept: int = 0
    failed: int = 0
    videos: int = 0
    frames: int = 0
    new: int = 0
    seconds: float = 0.0
    tables: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Images and frames per second that were segmented in this run."""
        return self.new / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        """Format the summary in one line."""
        images = self.images + self.failed - self.videos
        parts = [counted(images, "image")] if images or not self.videos else []
        if self.videos:
            parts.append(f"{counted(self.videos, 'video')} of {counted(self.frames, 'frame')}")
        if self.kept:
            parts.append(f"{self.kept} already done")
        parts.append(f"{self.failed} failed")
        if self.rate:
            rate = f"{self.rate:.1f}" if self.rate >= 0.1 else f"{self.rate:.1g}"  # large images take minutes
            parts.append(f"{rate} {self._unit}/s")
        return f"{', '.join(parts)}: {self.folder}"

    @property
    def _unit(self) -> str:
        if not self.videos:
            return "images"
        return "frames" if self.images + self.failed == self.videos else "images and frames"

    def to_json(self) -> dict[str, JSON]:
        """Return the fields as JSON values."""
        return {**asdict(self), "folder": str(self.folder), "rate": self.rate}


class Job:
    """One run over image files.

    Args:
        predictor: Predictor to run.
        items: All images in order, including those of other shards.
        options: How the job runs and what it writes.
        run: Settings that determine the outputs, as JSON values. A folder made with different settings is not resumed.
        tell: Function that receives messages about images.
        step: Function that is called after each image.
        part: Function that is called during long tasks with the number of parts done, the total or None if it is
            unknown, and the name of a part, "frame" or "tile".

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
        part: Callable[[int, int | None, str], None] | None = None,
    ) -> None:
        number, of = options.shard
        if not 1 <= number <= of:
            raise PredictError(f"shard {number}/{of}: expected 1/{of} to {of}/{of}")
        if not options.writers.files and not options.writers.tables:
            raise PredictError("nothing to write: choose at least one output (--save mask)")
        if options.tile is not None:
            divide(1, 1, tile=options.tile, overlap=options.overlap)
        self._predictor, self._options = predictor, options
        self._tell, self._step, self._part = tell, step, part
        endings = options.writers.endings or [""]
        videos = {index for index, item in enumerate(items) if is_video(item.source)}
        names = output_names([item.relative or PurePath(item.source) for item in items], endings, videos)
        self._work = [Task(item, str(name)) for item, name in zip(items, names, strict=True)][number - 1 :: of]
        self._journal = Journal(options.folder, run, options.shard)
        tables = options.writers.tables
        manifest = options.manifest
        self._manifest = manifest and manifest.with_name(_of_shard(manifest.name, options.shard))
        self._table_names = {name: _of_shard(writer.file_name, options.shard) for name, writer in tables.items()}
        self._folder = OutputFolder(
            options, self._journal, self._work, items, list(self._table_names.values()), len(predictor.classes)
        )
        self.summary = Summary(options.folder)

    @property
    def total(self) -> int:
        """Number of images of this shard."""
        return len(self._work)

    def execute(self) -> Summary:
        """Segment the remaining images.

        Returns:
            The counts and duration of the run.

        Raises:
            OutputError: If a file can't be written. The run can be resumed.
            PredictError: If the folder was made with a different model or different options.
            ImageError: If an image fails and `fail_fast` is set.
        """
        options, started = self._options, time.monotonic()
        try:
            self._folder.prepare()
            self._journal.start()
            networks = descriptions(self._predictor.networks)
            with Manifest(self._manifest, networks, overwrite=options.resume or options.overwrite) as manifest:
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

    def _entries(self) -> Iterator[tuple[Entry, bool]]:
        """Yield the entry of each image in order, and whether an earlier run recorded it."""
        size = self._predictor.batch_size(self._options.batch_size)
        todo = [
            task
            for start in range(0, len(self._work), size)
            # Whole batches are computed again, because the last bits may depend on the batch.
            if any(task.kept is None for task in self._work[start : start + size])
            for task in self._work[start : start + size]
        ]
        with contextlib.closing(self._computed(todo)) as computed:
            again = iter(todo)
            following = next(again, None)
            for task in self._work:
                entry = task.kept
                if task is following:
                    new = next(computed)
                    following = next(again, None)
                    if entry is None:
                        self._journal.append(new)
                        entry = new
                assert entry is not None  # from an earlier run, or computed now
                yield replace(entry, tables={}), task.kept is not None

    def _computed(self, todo: Sequence[Task]) -> Generator[Entry]:
        """Yield the entry of each task, computed now or by an earlier run, in order."""
        options = self._options
        for alone, group in groupby(todo, self._is_alone):
            tasks = list(group)
            if alone:
                yield from (self._computed_alone(task) for task in tasks)
                continue
            entries = self._predictor.run(
                (task.item for task in tasks), partial(self._written, tasks), options.batch_size, options.workers
            )
            with contextlib.closing(entries):
                yield from entries

    def _is_alone(self, task: Task) -> bool:
        """Return whether a task is processed on its own: a video, or an image whose results come row by row."""
        if self._options.tile is not None or is_video(task.item.source):
            return True
        return task.item.path is not None and is_georeferenced(task.item.path)

    def _computed_alone(self, task: Task) -> Entry:
        if task.kept is not None:
            return task.kept
        options = self._options
        if is_video(task.item.source):
            return write_video(
                task,
                self._predictor,
                options.video_writers,
                options.folder,
                batch_size=options.batch_size,
                workers=options.workers,
                progress=self._progress("frame"),
            )
        return write_tiled(
            task,
            self._predictor,
            options.writers,
            options.folder,
            tile=options.tile,
            overlap=options.overlap,
            batch_size=options.batch_size,
            progress=self._progress("tile"),
        )

    def _progress(self, name: str) -> Callable[[int, int | None], None] | None:
        part = self._part
        return None if part is None else lambda done, total: part(done, total, name)

    def _written(self, tasks: Sequence[Task], number: int, prediction: Prediction) -> Entry:
        """Write the outputs of one of several images. Runs in a worker."""
        task = tasks[number]
        if task.kept is not None:
            return task.kept
        return write_image(task, prediction, self._options.writers, self._options.folder)

    def _count(self, entry: Entry, kept: bool) -> None:
        if entry.state == "failed":
            self.summary.failed += 1
        else:
            self.summary.images += 1
            self.summary.kept += kept
        self.summary.videos += is_video(entry.source)
        self.summary.frames += entry.frames
        if not kept and entry.state == "done":
            self.summary.new += entry.frames or 1

    def _say(self, entry: Entry) -> None:
        for notice in entry.notices:
            self._tell(f"{entry.source}: {notice}")
        if entry.state == "failed":
            self._tell(entry.reason)

    def _write_tables(self, keys: Sequence[tuple[str, str]]) -> None:
        """Write the files that hold results of all images, from the journal."""
        if all(is_video(source) for source, _ in keys):
            return  # a video has tables of its own
        for name, writer in self._options.writers.tables.items():
            records = (
                (entry.source, *entry.size, entry.tables[name])
                for entry in self._journal.ordered(keys)
                if entry.size is not None  # it did not fail
            )
            with atomic_write(self._options.folder / self._table_names[name]) as file:
                writer.assemble(records, self._predictor.classes, self._predictor.palette, file)
            self.summary.tables.append(self._table_names[name])


def _of_shard(name: str, shard: tuple[int, int]) -> str:
    """Return the name of a file that each shard writes for itself."""
    number, of = shard
    path = PurePath(name)
    return name if of == 1 else str(path.with_name(f"{path.stem}.{number}-of-{of}{path.suffix}"))
