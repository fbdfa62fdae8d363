"""Output folder of a job: check its contents, find complete outputs and estimate the space needed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import PurePath

from segnets.errors import ImageError, OutputError, PredictError
from segnets.files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, cannot_write
from segnets.images import image_size
from segnets.inference.job_options import JobOptions
from segnets.inference.journal import FOLDER, Journal, stamp_of
from segnets.inference.outputs import Task
from segnets.inference.sources import Item
from segnets.inference.sources.video import is_video

_SAMPLED = 20  # images whose headers are read to estimate the space that is needed


class OutputFolder:
    """Output folder of a job.

    Args:
        options: Options of the job, including the folder and its writers.
        journal: Record of the run.
        work: The images of this shard; `prepare` sets `kept` of those that are complete.
        inputs: All images, including those of other shards.
        tables: Names of the files that hold results of all images.
        num_classes: Number of classes of the probabilities.
    """

    def __init__(
        self,
        options: JobOptions,
        journal: Journal,
        work: Sequence[Task],
        inputs: Sequence[Item],
        tables: Sequence[str],
        num_classes: int,
    ) -> None:
        self._options, self._folder, self._endings = options, options.folder, options.writers.endings
        self._journal, self._work, self._inputs, self._tables = journal, work, inputs, tables
        self._num_classes = num_classes

    def prepare(self) -> None:
        """Create the folder, or check that its contents may be kept or replaced. Find complete images.

        Raises:
            OutputError: If the folder can't be used, an output would replace an image, or the disk is too small.
            PredictError: If the folder was made with a different model or different options.
        """
        folder = self._folder
        try:
            folder.mkdir(exist_ok=True)
            # Another shard may be starting here at the same time. It creates the record's folder first.
            empty = {path.name for path in folder.iterdir()} <= {FOLDER} and not Journal.exists(folder)
        except FileExistsError:
            raise OutputError(f"{folder}: is not a folder; choose another name") from None
        except OSError as error:
            raise cannot_write(folder, error) from None
        self._check_inputs_are_safe()
        joins = self._options.shard[1] > 1 and Journal.exists(folder) and self._journal.is_empty()
        if not empty and not self._options.overwrite:
            self._check_record(goes_on=self._options.resume or joins)
        self._journal.lock()  # before touching files that belong to another process
        self._remove_temporaries()
        if self._options.overwrite:
            self._journal.clear()
        elif not empty:
            self._resume()
        self._check_space()

    def _check_record(self, *, goes_on: bool) -> None:
        """Check that the folder's contents come from a run with the same settings."""
        folder = self._folder
        if not goes_on:
            raise OutputError(
                f"{folder}: is not empty. Choose another folder, continue an interrupted run (--resume), or replace "
                "existing files (--force)"
            )
        if not Journal.exists(folder):
            raise OutputError(
                f"{folder}: is not empty, and has no record of a run; choose another folder, or pass --force"
            )
        if differences := self._journal.differences():
            raise PredictError(
                f"{folder}: was made with different settings ({'; '.join(differences)}). Run with the same model and "
                "options, or write to another folder"
            )

    def _resume(self) -> None:
        """Keep complete images, and remove incomplete outputs.

        Raises:
            OutputError: If an output would replace that of an image outside this run.
        """
        folder = self._folder
        recorded = self._journal.entries()
        keys = {task.key for task in self._work}
        others = {path: entry.source for key, entry in recorded.items() if key not in keys for path in entry.outputs}
        for task in self._work:
            for path in _outputs_of(task, self._endings):
                if source := others.get(path):
                    raise OutputError(
                        f"{folder / path}: was made from {source}, and {task.item.source} would replace it; choose "
                        "another folder"
                    )
            entry = recorded.get(task.key)
            if entry is None:
                continue
            # Outputs of deleted images are kept.
            if stamp_of(task.item.path) in (entry.stamp, None) and entry.is_complete(folder):
                task.kept = entry
            else:
                for path in entry.outputs:  # the image has changed, or an output is damaged
                    (folder / path).unlink(missing_ok=True)

    def _remove_temporaries(self) -> None:
        """Remove temporary files of a killed process. Shards skip this because other shards may be writing."""
        if self._options.shard[1] > 1 or any((self._folder / FOLDER).glob("*-of-*.lock")):
            return
        folders = {
            self._folder / (task.name if is_video(task.item.source) else PurePath(task.name).parent)
            for task in self._work
        }
        for folder in folders | {self._folder, self._folder / FOLDER}:
            for path in folder.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
                path.unlink(missing_ok=True)

    def _check_inputs_are_safe(self) -> None:
        """Check that no output replaces an image or the manifest, and that no link points out of the folder.

        Raises:
            OutputError: If an output would replace such a file, or a link points out of the folder.
        """
        folder = os.path.realpath(self._folder)
        inside = {
            path for item in self._inputs if item.path if (path := os.path.realpath(item.path)).startswith(folder)
        }
        manifest = None if self._options.manifest is None else os.path.realpath(self._options.manifest)
        if manifest in {f"{folder}/{name}" for name in self._tables}:
            raise OutputError(f"{self._options.manifest}: is the name of another result; choose another --manifest")
        folders: dict[str, str] = {}
        for task in self._work:
            for ending in self._endings:
                parent, _, name = f"{folder}/{task.name}{ending}".rpartition("/")
                real = folders.setdefault(parent, os.path.realpath(parent))
                if os.path.commonpath([real, folder]) != folder:
                    raise OutputError(f"{parent}: is a link that points out of {self._folder}; remove it")
                if f"{real}/{name}" == manifest:
                    raise OutputError(f"{parent}/{name}: is the name of another result; choose another --manifest")
                if f"{real}/{name}" in inside:
                    raise OutputError(
                        f"{parent}/{name}: is one of the images, which would be replaced; choose another --out"
                    )

    def _check_space(self) -> None:
        """Check that the outputs fit on the disk, with a low estimate from the headers of some images.

        Raises:
            OutputError: If the outputs don't fit.
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
        per_pixel = sum(_bytes_per_pixel(name, self._num_classes) for name in self._options.writers.files)
        needed = per_pixel * len(todo) * sum(pixels) / len(pixels)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise OutputError(
                f"{self._folder}: {len(todo)} images need about {needed / 1e9:.1f} GB or more, but {free / 1e9:.1f} GB "
                "are free; choose another disk, fewer outputs (--save), or a part (--shard)"
            )


def _outputs_of(task: Task, endings: Sequence[str]) -> list[str]:
    """Return output paths relative to the folder. For a video, only those that could clash with other images."""
    if is_video(task.item.source):
        return [f"{task.name}.overlay.mp4", *(f"{task.name}/000001{ending}" for ending in endings)]
    return [f"{task.name}{ending}" for ending in endings]


def _bytes_per_pixel(output: str, classes: int) -> float:
    """Return a low estimate of an output's size, in bytes per pixel of the image."""
    return {"mask": 0.01, "overlay": 0.05, "confidence": 0.1, "probabilities": 0.2 * classes}.get(output, 0.0)
