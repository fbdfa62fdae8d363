"""The training loop: steps, validations, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON
from segnets.console import counted
from segnets.data import DataSet, open_data
from segnets.data.loader import Augmentation, Example
from segnets.errors import DataError, TrainingError
from segnets.training.assembly import Assembly
from segnets.training.checkpoints import check_room, restoring, write_checkpoint
from segnets.training.config import TrainingConfig
from segnets.training.distributed import Ranks, joined
from segnets.training.evaluation import Evaluation
from segnets.training.loggers import Logger, loggers_of
from segnets.training.losses import Objective
from segnets.training.progress import Progress, StepReport, TrainingResult
from segnets.training.records import CsvLog, Pace
from segnets.training.run_folder import RunFolder, check_same_training, fingerprint, meaning_of_masks
from segnets.training.step import StepResult
from segnets.training.stopping import StopRequest, stop_requests
from segnets.training.validation import save_network, scores_of, validate


class _Stopped(Exception):  # noqa: N818  # not an error
    """Request to stop during a validation, which is repeated on resume."""


class Trainer:
    """Training run, from the data to the files in the run folder.

    Args:
        config: Training options.
        data: Data set with class names.
        model: Network to train instead of the one in `config`. It must have a card.
        loss: Loss to use instead of the one in `config`.
        augmentation: Augmentation to use instead of the one in `config`.
        ranks: Rank and device of this process; under torchrun, from `joined`. None for a single process on the CPU.
        tell: Callback that receives each message for the user, in the first process only.
        on_step: Callback that receives a report after every step.
        loggers: Additional loggers, besides the CSV file, the report and those enabled in `config`.

    Raises:
        DataError: If the data set has no class names, no training split, or too few images for one batch.
        TrainingError: If the network name is unknown, or the masks do not match `config.decoding`.
    """

    def __init__(
        self,
        config: TrainingConfig,
        data: DataSet,
        model: nn.Module | None = None,
        *,
        loss: Objective | None = None,
        augmentation: Augmentation | None = None,
        ranks: Ranks | None = None,
        tell: Callable[[str], None] = print,
        on_step: Callable[[StepReport], None] = lambda _report: None,
        loggers: Sequence[Logger] = (),
    ) -> None:
        self.config = config
        self.data = data
        self.ranks = ranks or Ranks()
        self.tell = tell if self.ranks.first else lambda _message: None
        self.folder = RunFolder(Path(config.out))
        self._parts = Assembly(
            config, data, self.ranks, model=model, loss=loss, augmentation=augmentation, tell=self.tell
        )
        self.total = self._parts.total
        self.validates = bool(data.splits.get(config.val_split))
        self._on_step = on_step
        self._loggers = list(loggers)
        self._progress = Progress()
        self._saved = 0
        self._pace = Pace()
        self._pending: deque[tuple[int, StepResult, Tensor]] = deque()

    def run(self, *, resume: bool = False) -> TrainingResult:
        """Train from the beginning, or resume an interrupted run.

        After Ctrl-C or SIGTERM, the current step finishes, a checkpoint is written and KeyboardInterrupt is raised with
        the step number. The caller's random state is not changed.

        Args:
            resume: Whether to resume from the checkpoint in the run folder, if there is one.

        Returns:
            The run folder, the number of steps and the scores.

        Raises:
            TrainingError: If the loss is not finite, the options do not fit the network, or the checkpoint belongs to
                another run.
            WeightsError: If the starting weights are not found or do not fit the network.
            DataError: If an image or mask can't be read. A checkpoint is written first.
            OutputError: If a file can't be written, or another process trains in the run folder. The last checkpoint
                is kept.
            KeyboardInterrupt: If the run was stopped by Ctrl-C or SIGTERM.
        """
        with contextlib.ExitStack() as stack:
            with self.ranks.agreed():
                if self.ranks.first:
                    stack.enter_context(self.folder.reserved())
            return self._run(resume=resume)

    def _run(self, *, resume: bool) -> TrainingResult:
        state = self.folder.prepare(resume=resume)
        if state is not None:
            with restoring(self.folder.checkpoint):
                check_same_training(state, self.config, self.data, self.ranks.world, self.folder.checkpoint)
                progress = Progress(**state["progress"])
                if self._steps_in(state) == self.total == progress.validated:  # else the last validation was stopped
                    self._progress = progress
                    self.tell(f"{self.folder.path}: this run is finished")
                    return self._result()
        elif resume:
            self.tell(f"{self.folder.path}: no checkpoint to resume; training starts from the beginning")
        self.ranks.wait()  # no process may write files before `prepare` has run in all of them
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices), stop_requests() as stop:
            torch.manual_seed(self.config.seed + self.ranks.rank)
            try:
                self._start(state)
                self._train(stop)
            except BaseException:
                with contextlib.suppress(OSError):  # the first error is more useful
                    self._close_loggers()
                raise
            self._close_loggers()
        return self._result()

    def _steps_in(self, state: Mapping[str, Any]) -> int:
        steps = state["training"]["steps"]
        if type(steps) is not int or not 0 <= steps <= self.total:
            raise ValueError(f"{steps!r} steps of {self.total}")
        return steps

    def _start(self, state: Mapping[str, Any] | None) -> None:
        """Build the training step, restore the checkpoint if there is one, and open the run's files."""
        if state is None:
            epochs, steps = counted(self.config.epochs, "epoch"), counted(self._parts.steps_per_epoch, "step")
            self.tell(
                f"recipe {self.config.recipe}: {epochs} of {steps}, each on {counted(self._parts.images, 'image')}"
            )
            self._parts.build()
        else:
            with restoring(self.folder.checkpoint):
                self._parts.build(state)
                self._restore(state)
        with self.ranks.agreed():
            if self.ranks.first:
                weights = dict.fromkeys(
                    [self.folder.last, *([self.folder.best] if self.validates else [])],
                    self._parts.step.weights_bytes(),
                )
                check_room(self.folder.path, weights | {self.folder.checkpoint: self._parts.step.checkpoint_bytes()})
                self.folder.write_config(self.config)
                self._open_loggers(self._parts.step.steps)
        if not self.validates:
            missing = f"has no split {self.config.val_split!r}" if self.config.val_split else "val_split is empty"
            self.tell(f"{self.data.path}: {missing}, so there is no validation and no best.safetensors")

    def _open_loggers(self, step: int) -> None:
        folder = self.folder
        self._loggers = [
            CsvLog(folder.log, step),
            *loggers_of(self.config, folder.path, log=folder.log, report=folder.report, step=step),
            *self._loggers,
        ]

    def _close_loggers(self) -> None:
        for logger in self._loggers:
            logger.close()

    def _write_row(self, row: Mapping[str, JSON]) -> None:
        for logger in self._loggers:
            logger.write(row)

    def _train(self, stop: StopRequest) -> None:
        # Close immediately: worker processes ignore SIGTERM, and Python would wait for them at exit.
        try:
            with contextlib.closing(self._parts.batches()) as batches:
                self._make_steps(batches, stop)
        except RuntimeError as error:  # may be raised in the middle of a step, so nothing can be saved
            if "DataLoader worker" not in str(error):
                raise
            raise TrainingError(
                f"a data loading process was killed, often for lack of memory; {self._describe_saved()}. Continue with "
                "--resume, and with fewer --workers if memory is short"
            ) from None

    def _make_steps(self, batches: Iterator[Example], stop: StopRequest) -> None:
        while True:
            steps = self._parts.step.steps
            if self.ranks.any(bool(stop)):
                self._stop()
            if steps % self._parts.steps_per_epoch == 0 and steps > self._progress.validated:
                try:
                    self._validate(stop)
                except _Stopped:
                    self._stop()
                self._checkpoint()
            elif self._is_due(steps):
                self._checkpoint()
            if steps == self.total:
                return
            started = time.perf_counter()
            with self._saving(), self.ranks.agreed():
                example = next(batches)
            self._pace.waiting += time.perf_counter() - started
            result = self._parts.make_step(example)
            self._pace.seconds += time.perf_counter() - started
            self._note(result, self._parts.indices_of(example))

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Write a checkpoint in all processes before an unreadable sample ends the run."""
        try:
            yield
        except DataError as error:
            self._checkpoint()
            text, steps = str(error).rstrip("."), self._parts.step.steps
            raise DataError(f"{text}. The run was saved after step {steps}; continue with --resume.") from None

    def _note(self, result: StepResult, samples: Tensor) -> None:
        """Record the loss of a step. On a GPU, record the previous step's instead, to avoid waiting."""
        self._pending.append((self._parts.step.steps, result, samples))
        if len(self._pending) > (1 if self.ranks.device.type == "cuda" else 0):
            self._settle()

    def _settle(self) -> None:
        steps, result, samples = self._pending.popleft()
        loss = float(result.loss)
        if not math.isfinite(loss):
            raise TrainingError(self._describe_divergence(steps, loss, samples))
        epoch = (steps - 1) // self._parts.steps_per_epoch + 1
        self._progress.loss += loss
        self._progress.losses += 1
        self._pace.images += self._parts.images
        waiting = self._pace.share_waiting
        if steps % self.config.log_every == 0 or steps % self._parts.steps_per_epoch == 0:
            mean = self._progress.loss / self._progress.losses
            self._progress.loss, self._progress.losses = 0.0, 0
            if self.ranks.first:
                pace, self._pace = self._pace, Pace()
                self._write_row({"step": steps, "epoch": epoch, "loss": mean, "lr": result.lr, **pace.columns()})
        self._on_step(StepReport(steps, self.total, epoch, self.config.epochs, loss, self._parts.images, waiting))

    def _settle_all(self) -> None:
        while self._pending:
            self._settle()

    def _describe_divergence(self, steps: int, loss: float, samples: Tensor) -> str:
        """Describe a non-finite loss, with the image paths of the batch over all processes."""
        return (
            f"the loss is {loss} at step {steps} of {self.total}; {self._describe_saved()}. Lower --lr, set clip=1, or "
            f"look at the images of the batch: {', '.join(self._parts.files_of(samples))}"
        )

    def _describe_saved(self) -> str:
        return f"the checkpoint of step {self._saved} is kept" if self._saved else "there is no checkpoint yet"

    def _is_due(self, steps: int) -> bool:
        """Return whether a checkpoint is due after this step, besides those at the end of each epoch."""
        every = self.config.checkpoint_every
        return every > 0 and steps % every == 0 and steps != self._saved

    def _checkpoint(self) -> None:
        """Write a checkpoint. All processes must call this."""
        self._settle_all()
        self._check_finite()
        cuda = self.ranks.device.type == "cuda"
        random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if cuda else None}
        randoms = self.ranks.gather(random)
        with self.ranks.agreed():
            if self.ranks.first:
                write_checkpoint(self.folder.checkpoint, self._state(randoms))
        self._saved = self._parts.step.steps

    def _state(self, randoms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the contents of a checkpoint. `randoms` holds the random state of each process."""
        return {
            "config": self.config.to_json(),
            "classes": self.data.classes,
            "data": fingerprint(self.data, self.config.train_split),
            "validation": fingerprint(self.data, self.config.val_split),
            "masks": meaning_of_masks(self.data),
            "ranks": self.ranks.world,
            **self._parts.state_dict(),
            "progress": asdict(self._progress),
            "random": randoms,
        }

    def _check_finite(self) -> None:
        """Check that all weights are finite, so that a checkpoint never stores broken ones.

        Raises:
            TrainingError: If a weight is not finite.
        """
        norms = torch._foreach_norm([*self._parts.step.model.parameters()])
        if not bool(torch.stack(norms).isfinite().all()):
            raise TrainingError(
                f"a weight of the network is not finite after step {self._parts.step.steps}; "
                f"{self._describe_saved()}. Lower --lr, or set clip=1"
            )

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._progress = Progress(**state["progress"])
        self._saved = self._parts.step.steps
        random = state["random"][self.ranks.rank]
        torch.set_rng_state(random["cpu"])
        if random["cuda"] is not None:
            torch.cuda.set_rng_state(random["cuda"])

    def _stop(self) -> None:
        """Write a checkpoint and stop.

        Raises:
            KeyboardInterrupt: Always, with a message about how to resume.
        """
        self._checkpoint()
        steps = self._parts.step.steps
        raise KeyboardInterrupt(
            f"stopped after step {steps} of {self.total} and saved {self.folder.checkpoint}; continue with --resume"
        )

    def _interrupt(self, stop: StopRequest) -> None:
        """Interrupt the validation if a stop was requested. With several processes, all finish it first.

        Raises:
            _Stopped: If a stop was requested.
        """
        if stop and self.ranks.world == 1:
            raise _Stopped

    def _averaged(self) -> nn.Module:
        """Return the network to validate and save: with averaged weights if they are enabled."""
        return self._parts.step.averaged_model

    def _validate(self, stop: StopRequest) -> None:
        """Validate the network and save it. All processes must call this."""
        self._settle_all()
        steps, model, progress = self._parts.step.steps, self._averaged(), self._progress
        epochs = steps / self._parts.steps_per_epoch
        evaluation = None
        if self.validates and (epochs % self.config.validate_every == 0 or steps == self.total):
            with self._saving():
                evaluation = validate(model, self.data, self.config, self.ranks, lambda *_: self._interrupt(stop))
            progress.scores = scores_of(evaluation)
        progress.validated = steps
        is_best = evaluation is not None and evaluation.mean_iou > (-1.0 if progress.best is None else progress.best)
        if evaluation is not None and is_best:
            progress.best = evaluation.mean_iou
        scores = progress.scores if evaluation is not None else {}  # those of another epoch are not this network's
        with self.ranks.agreed():
            if self.ranks.first:
                for path in (self.folder.last, self.folder.best) if is_best else (self.folder.last,):
                    save_network(model, path, self.config, self.data, epochs=epochs, scores=scores)
                if evaluation is not None:
                    self._record(steps, evaluation)

    def _record(self, steps: int, evaluation: Evaluation) -> None:
        """Report and log the result of a validation."""
        progress, epoch = self._progress, steps // self._parts.steps_per_epoch
        row = {name: progress.scores[name] for name in ("mean_iou", "pixel_accuracy")}
        self._write_row({"step": steps, "epoch": epoch, **row})
        for logger in self._loggers:
            logger.validated(steps, evaluation)
        best = f"mean IoU {evaluation.mean_iou:.4f} (best {progress.best:.4f})" if progress.best is not None else ""
        self.tell(f"epoch {epoch} of {self.config.epochs}: {best or 'no scores, as every pixel is ignored'}")

    def _result(self) -> TrainingResult:
        return TrainingResult(
            self.folder.path, self.total, self.config.epochs, self._progress.scores, self._progress.best
        )


def open_configured(config: TrainingConfig, progress: Callable[[int, int], None] | None = None) -> DataSet:
    """Open the data set that a configuration specifies.

    Args:
        config: Training options.
        progress: Callback (done, total) that receives numbers of shards on servers whose index was read.

    Raises:
        DataError: If the data set can't be opened.
    """
    return open_data(
        config.data,
        classes=config.classes or None,
        ignore=config.ignore or None,
        format=config.format,
        progress=progress,
    )


def train(
    config: TrainingConfig, data: DataSet | None = None, *, resume: bool = False, **options: Any
) -> TrainingResult:
    """Train a network in this process, or in the processes that torchrun started.

    Args:
        config: Training options. `out` is the run folder.
        data: Data set. None opens the one that `config` specifies.
        resume: Whether to resume from the checkpoint in the run folder, if there is one.
        **options: Further arguments of `Trainer`: model, loss, augmentation, tell, on_step, loggers.

    Returns:
        The run folder, the number of steps and the scores.

    Raises:
        SegnetsError: If the data set can't be opened, or as in `Trainer` and `Trainer.run`.

    Example:
        >>> config = TrainingConfig(data="camvid", model="lraspp_mobilenet_v3_small", out="run", epochs=100)
        >>> train(config).scores["mean_iou"]
    """
    if data is None:
        data = open_configured(config)
    with joined(config.device) as ranks:
        return Trainer(config, data, ranks=ranks, **options).run(resume=resume)
