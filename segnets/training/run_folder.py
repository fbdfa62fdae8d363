"""Run folder: its file names, and the checks that a checkpoint belongs to the run to resume."""

from __future__ import annotations

import contextlib
import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import Any

from segnets.data.dataset import DataSet
from segnets.errors import OutputError, TrainingError
from segnets.files import atomic_write
from segnets.training.checkpoints import read_checkpoint
from segnets.training.config import TrainingConfig

# Options that may differ on resume, because they do not change the result of a step.
_FREE = {"data", "out", "workers", "device", "checkpoint_every", "tensorboard"}


class RunFolder:
    """Folder of a training run.

    Args:
        path: Path of the folder, which need not exist.

    Attributes:
        checkpoint: Checkpoint that `--resume` reads.
        last: Weights file of the network after the last epoch.
        best: Weights file of the network with the best validation score.
        config: The configuration.
        log: Losses and validations, as CSV.
        report: The report, as HTML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "last.ckpt"
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"
        self.config = path / "config.toml"
        self.log = path / "log.csv"
        self.report = path / "report.html"

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """Let no other process train in the folder meanwhile. The lock ends with this process.

        Raises:
            OutputError: If the folder can't be created, or another process trains in it.
        """
        self._create()
        lock = self.path / ".lock"
        try:
            import fcntl

            file = lock.open("a")
        except (ImportError, OSError):  # Windows; a folder that can't be written, as the first file will tell
            yield
            return
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not shared with forked processes
            except (BlockingIOError, PermissionError):
                raise OutputError(
                    f"{self.path}: another process is training in this folder; wait until it ends, or choose another "
                    "--out"
                ) from None
            except OSError:  # a file system without locks
                pass
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: can't be created: {error.strerror}; choose another --out") from None

    def prepare(self, *, resume: bool) -> dict[str, Any] | None:
        """Create the folder, or read the checkpoint to resume.

        Args:
            resume: Whether to resume from an existing checkpoint.

        Returns:
            The checkpoint to resume, or None to start from the beginning.

        Raises:
            OutputError: If the folder can't be created, holds a run and `resume` is False, or holds a run whose
                checkpoint is missing.
            TrainingError: If the checkpoint can't be read.
        """
        if self.checkpoint.exists():
            if not resume:
                raise OutputError(
                    f"{self.path}: already holds a run; continue it with --resume, or choose another --out"
                )
            return read_checkpoint(self.checkpoint)
        self._create()
        if _has_later_epochs(self.log):
            raise OutputError(
                f"{self.path}: holds a run without its {self.checkpoint.name}; restore that file, or start a new run "
                f"from {self.last.name} (--weights) in another --out"
            )
        if not resume and self.log.exists():
            raise OutputError(
                f"{self.path}: holds a run that was stopped before its first checkpoint; start again in it with "
                "--resume, or choose another --out"
            )
        return None

    def write_config(self, config: TrainingConfig) -> None:
        """Write the configuration as TOML.

        Raises:
            OutputError: If the file can't be written.
        """
        with atomic_write(self.config) as file:
            file.write(config.to_toml().encode())


def _has_later_epochs(log: Path) -> bool:
    """Return whether a log goes beyond the first epoch, whose end has a checkpoint."""
    try:
        with log.open(newline="", encoding="utf-8", errors="replace") as file:
            return any((row.get("epoch") or "1") not in ("0", "1") for row in csv.DictReader(file))
    except (OSError, csv.Error):
        return False


def check_same_training(
    state: Mapping[str, Any], config: TrainingConfig, data: DataSet, ranks: int, where: Path
) -> None:
    """Check that a checkpoint belongs to the run to resume.

    Args:
        state: Contents of the checkpoint.
        config: Configuration of the resumed run.
        data: Data set of the resumed run.
        ranks: Number of processes.
        where: Path of the checkpoint, for messages.

    Raises:
        TrainingError: If the configuration, the data or the number of processes differ.
    """
    then, now = state["config"], config.to_json()
    for each in fields(config):
        name = each.name
        if name not in _FREE and then.get(name) != now[name]:
            raise TrainingError(
                f"{where}: was made with {name}={then.get(name)!r}, but now it is {now[name]!r}; resume with the same "
                "options, or start a new run in another --out"
            )
    if state["ranks"] != ranks:
        raise TrainingError(
            f"{where}: was made by {state['ranks']} processes, but now there are {ranks}; start the same number "
            f"(torchrun --nproc-per-node {state['ranks']}), or start a new run in another --out"
        )
    if tuple(state["classes"]) != data.classes:
        raise TrainingError(
            f"{where}: was made with different classes: {', '.join(state['classes'])}; restore them, or start a new "
            "run in another --out"
        )
    if state.get("masks", meaning_of_masks(data)) != meaning_of_masks(data):  # older checkpoints lack it
        raise TrainingError(
            f"{where}: was made with a different description of the masks or channels of {data.path} (ignore, ids, "
            "palette, channels); restore it, or start a new run in another --out"
        )
    for split, then_hash in ((config.train_split, state["data"]), (config.val_split, state.get("validation"))):
        if then_hash not in (None, fingerprint(data, split)):  # older checkpoints lack that of the validation
            raise TrainingError(
                f"{where}: the images of the split {split!r} of {data.path} have changed; restore them, or start a new "
                "run in another --out"
            )


def fingerprint(data: DataSet, split: str) -> str:
    """Return a SHA-256 hash of a split's sample names, in order, as hexadecimal digits. A split may be missing."""
    names = "\n".join(sample.name for sample in data.splits.get(split, ()))
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


def meaning_of_masks(data: DataSet) -> dict[str, Any]:
    """Return the settings that decide how mask values become class ids, as plain values."""
    return {
        "ignore": sorted(data.ignore),
        "ids": list(data.ids),
        "palette": [list(colour) for colour in data.palette],
        "channels": data.channels,
        "planes": data.planes,
    }


def next_commands(folder: RunFolder, config: TrainingConfig, data: DataSet) -> list[str]:
    """Return example commands for the trained network, with actual paths.

    Args:
        folder: Run folder.
        config: Configuration of the run.
        data: Data set.
    """
    weights = quote(str(folder.best if folder.best.exists() else folder.last))
    splits = ("test", config.val_split, config.train_split)
    samples = [sample for name in splits for sample in data.splits.get(name, ())]
    photo = samples[0].image if samples[0].image.is_file() else "photo.jpg"  # images in shards are not files
    results, export = (quote(str(folder.path / name)) for name in ("predicted", "model.ts"))
    return [
        *(f"segnets evaluate --model {weights} {quote(config.data)}{more}" for more in _to_evaluate(config, data)),
        f"segnets predict --model {weights} {quote(str(photo))} --out {results}",
        f"segnets export {weights} {export}",
    ]


def _to_evaluate(config: TrainingConfig, data: DataSet) -> Iterator[str]:
    """Yield the options with which `segnets evaluate` scores the run, or nothing if no split is left for that."""
    for split in (config.val_split, "test"):
        if any(sample.mask is not None for sample in data.splits.get(split, ())):
            options = [
                f" --split {quote(split)}" if split != "val" else "",
                f" --classes {quote(','.join(config.classes))}" if config.classes else "",
                f" --ignore {','.join(map(str, config.ignore))}" if config.ignore else "",
            ]
            yield "".join(options)
            return
