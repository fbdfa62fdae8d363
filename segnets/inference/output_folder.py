"""The output folder of a job: what it may contain, what is complete, and whether the outputs fit."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from segnets.errors import ImageError, OutputError, PredictError
from segnets.files import cannot_write
from segnets.images import image_size
from segnets.inference.journal import Journal, stamp_of
from segnets.inference.outputs import Task, Writers

_SAMPLED = 20  # images whose headers are read to estimate the space that is needed


class Rules(Protocol):
    """What a job may do with its folder, as in `JobOptions`."""

    @property
    def resume(self) -> bool:
        """Whether to go on with the run that is recorded in the folder."""

    @property
    def overwrite(self) -> bool:
        """Whether the folder may contain files, which are replaced."""

    @property
    def shard(self) -> tuple[int, int]:
        """Number of this shard, from 1, and of all shards."""


class OutputFolder:
    """Output folder of a job.

    Args:
        folder: The folder.
        journal: Record of the run.
        work: The images; those that are complete get their entry.
        writers: What is written.
        num_classes: Number of classes of the probabilities.
        rules: What the job may do.
    """

    def __init__(
        self, folder: Path, journal: Journal, work: Sequence[Task], writers: Writers, num_classes: int, rules: Rules
    ) -> None:
        self._folder, self._journal, self._work = folder, journal, work
        self._writers, self._num_classes, self._rules = writers, num_classes, rules

    def prepare(self) -> None:
        """Make the folder, or check that its contents may be kept or replaced; find what is complete.

        Raises:
            OutputError: If the folder can't be used, an output would replace an image, or the disk is too small.
            PredictError: If the folder was made with another model or other options.
        """
        folder = self._folder
        try:
            folder.mkdir(exist_ok=True)
            empty = not any(folder.iterdir())
        except OSError as error:
            raise cannot_write(folder, error) from None
        joins = self._rules.shard[1] > 1 and Journal.exists(folder) and not self._journal.entries()
        if self._rules.overwrite:
            self._journal.clear()
        elif not empty and not self._rules.resume and not joins:
            raise OutputError(
                f"{folder}: is not empty. Choose another folder, go on with an interrupted run (--resume), or let "
                "existing files be replaced (--force)"
            )
        elif not empty:
            self._resume()
        self._check_inputs_are_safe()
        self._check_space()

    def _resume(self) -> None:
        folder = self._folder
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
        folder = os.path.realpath(self._folder)
        inside = {
            path
            for task in self._work
            if task.item.path
            if (path := os.path.realpath(task.item.path)).startswith(folder)
        }
        folders: dict[str, str] = {}
        for task in self._work:
            for ending in self._writers.endings:
                parent, _, name = f"{folder}/{task.name}{ending}".rpartition("/")
                real = folders.setdefault(parent, os.path.realpath(parent))
                if os.path.commonpath([real, folder]) != folder:
                    raise OutputError(f"{parent}: is a link that leads out of {self._folder}; remove it")
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
        per_pixel = sum(_bytes_per_pixel(name, self._num_classes) for name in self._writers.files)
        needed = per_pixel * len(todo) * sum(pixels) / len(pixels)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise OutputError(
                f"{self._folder}: {len(todo)} images need about {needed / 1e9:.1f} GB or more, and "
                f"{free / 1e9:.1f} GB are free; choose another disk, fewer outputs (--save), or a part (--shard)"
            )


def _bytes_per_pixel(output: str, classes: int) -> float:
    """Return a low estimate of the size of an output."""
    return {"mask": 0.01, "overlay": 0.05, "confidence": 0.1, "probabilities": 0.2 * classes}.get(output, 0.0)
