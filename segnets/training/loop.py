"""The training loop: steps, validations, checkpoints, exact resume."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from segnets import __version__
from segnets.card import JSON, ModelCard
from segnets.data.augment import training_augmentation
from segnets.data.dataset import DataSet
from segnets.data.loader import Augmentation, Batches, Example, TrainSet
from segnets.errors import DataError, TrainingError
from segnets.segmenter import segment
from segnets.training.batches import Normaliser, load_batches
from segnets.training.checkpoints import write_checkpoint
from segnets.training.config import TrainingConfig
from segnets.training.distributed import Ranks
from segnets.training.losses import Objective, class_frequencies, class_weights_of, loss_of
from segnets.training.metrics import ConfusionMatrix
from segnets.training.optim import build_optimizer
from segnets.training.records import CsvLog
from segnets.training.run_folder import RunFolder, check_same_training, fingerprint
from segnets.training.schedules import schedule_of
from segnets.training.starting import build_network
from segnets.training.step import StepResult, TrainingStep
from segnets.training.stopping import StopRequest, stop_requests
from segnets.weights import save


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes:
        out: Folder with the files.
        steps: Number of steps.
        epochs: Number of epochs.
        scores: Scores of the last validation: "mean_iou", "pixel_accuracy" and others; empty without a validation.
        best: Best mean IoU of all validations, or None.
    """

    out: Path
    steps: int
    epochs: int
    scores: Mapping[str, JSON] = field(default_factory=dict)
    best: float | None = None


@dataclass
class _Progress:
    """What changes during a training, apart from the weights.

    Attributes:
        loss: Sum of the losses since the last row of the log.
        losses: Their number.
        validated: Step of the last validation.
        best: Best mean IoU so far, or None.
        history: Results of the validations.
    """

    loss: float = 0.0
    losses: int = 0
    validated: int = 0
    best: float | None = None
    history: list[dict[str, JSON]] = field(default_factory=list)


class Trainer:
    """A training, from the data to the files of a run.

    Args:
        config: All options.
        data: Data set with class names.
        model: Network to train instead of the one that `config` describes, with a card.
        loss: Loss instead of the one that `config` describes.
        augmentation: Augmentation instead of the one that `config` describes.
        ranks: The processes of the training; from `joined` under torchrun.
        tell: Called with messages for the user.

    Raises:
        DataError: If the data names no classes, has no training split, or too few images for a batch.
        TrainingError: If the options contradict each other, the data or the network.
        WeightsError: If starting weights are not found or do not fit.
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
    ) -> None:
        if not data.classes:
            raise DataError(f"{data.path}: names no classes. Write a dataset.toml, or give --classes.")
        self.config = config
        self.data = data
        self.ranks = ranks or Ranks()
        self.tell = tell if self.ranks.first else lambda _message: None
        self.folder = RunFolder(Path(config.out))
        self._samples = TrainSet(data, config.train_split, augmentation or training_augmentation(config), config.seed)
        self.steps_per_epoch = self._batches(0).steps_per_epoch
        self.total = config.epochs * self.steps_per_epoch
        self._model = model
        self._objective = loss
        self._progress = _Progress()
        self._saved = 0
        self._pending: deque[tuple[int, StepResult, Tensor]] = deque()

    def _batches(self, start: int) -> Batches:
        config = self.config
        return Batches(
            len(self._samples),
            config.batch * config.accumulate,
            config.seed,
            start=start,
            rank=self.ranks.rank,
            ranks=self.ranks.world,
        )

    def run(self, *, resume: bool = False) -> TrainingResult:
        """Train, or go on with an interrupted training.

        Ctrl-C and SIGTERM end the step at hand, write a checkpoint and raise KeyboardInterrupt with the step. The
        random numbers of the caller are left alone.

        Args:
            resume: Whether to go on from the checkpoint in the folder, if there is one.

        Raises:
            TrainingError: If the loss is not finite, or the checkpoint is of another training.
            DataError: If an image or mask can't be read. A checkpoint is written first.
            OutputError: If a file can't be written. The last checkpoint stays.
        """
        state = self.folder.prepare(resume=resume)
        if state is not None:
            check_same_training(state, self.config, self.data, self.ranks.world, self.folder.checkpoint)
        elif resume:
            self.tell(f"{self.folder.path}: holds no checkpoint; the training starts from the beginning")
        self.ranks.wait()  # before the first process writes files, which `prepare` would find
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices), stop_requests() as stop:
            torch.manual_seed(self.config.seed + self.ranks.rank)
            self._start(state)
            self._train(stop)
        return self._result()

    def _start(self, state: Mapping[str, Any] | None) -> None:
        """Build what makes a step, and restore a checkpoint."""
        config, device = self.config, self.ranks.device
        model = self._model or build_network(
            config, self.data.classes, palette=self.data.palette, channels=self.data.channels, tell=self.tell
        )
        model.to(device)
        self._kept_in_memory = self._samples.keep_in_memory()
        self._class_weights = self._weights_of_classes() if state is None else state["class_weights"]
        weights = None if self._class_weights is None else torch.tensor(self._class_weights, device=device)
        self.step = TrainingStep(
            model,
            build_optimizer(model, config),
            self._objective or loss_of(config, weights),
            schedule_of(config, self.steps_per_epoch),
            config,
            self.ranks,
        )
        self._normalise = Normaliser(card_of(model).preprocessing, device)
        if state is not None:
            self._restore(state)
        if self.ranks.first:
            self.folder.write_config(config)
            self._log = CsvLog(self.folder.log, self.step.steps)

    def _weights_of_classes(self) -> list[float] | None:
        choice, count = self.config.class_weights, len(self.data.classes)
        frequencies = None
        if choice in ("enet", "median"):
            masks = (self._samples.pair(index).mask for index in range(len(self._samples)))
            frequencies = class_frequencies(masks, count)
        weights = class_weights_of(choice, frequencies, count)
        return None if weights is None else weights.tolist()

    def _train(self, stop: StopRequest) -> None:
        batches = self._loaded()
        while True:
            steps = self.step.steps
            if stop:
                self._stop()
            if steps % self.steps_per_epoch == 0 and steps > self._progress.validated:
                self._validate()
            if self._is_due(steps):
                self._checkpoint()
            if steps == self.total:
                return
            example = self._next(batches)
            images, target = self._normalise(example)
            parts = self.config.accumulate
            result = self.step([*zip(images.chunk(parts), target.chunk(parts), strict=True)])
            self._note(result, cast(Tensor, example.sample))  # collated

    def _loaded(self) -> Iterator[Example]:
        pinned = self.ranks.device.type == "cuda"
        return load_batches(self._samples, self._batches(self.step.steps), workers=self.config.workers, pinned=pinned)

    def _next(self, batches: Iterator[Example]) -> Example:
        try:
            return next(batches)
        except DataError as error:
            self._checkpoint()
            raise DataError(
                f"{error} The training was saved after step {self.step.steps}; --resume goes on from there."
            ) from None

    def _note(self, result: StepResult, samples: Tensor) -> None:
        """Record the loss of a step, on a GPU that of the step before, which does not have to be waited for."""
        self._pending.append((self.step.steps, result, samples))
        if len(self._pending) > (1 if self.ranks.device.type == "cuda" else 0):
            self._settle()

    def _settle(self) -> None:
        steps, result, samples = self._pending.popleft()
        loss = float(result.loss)
        if not math.isfinite(loss):
            raise TrainingError(self._describe_divergence(steps, loss, samples))
        self._progress.loss += loss
        self._progress.losses += 1
        if steps % self.config.log_every == 0:
            mean = self._progress.loss / self._progress.losses
            self._progress.loss, self._progress.losses = 0.0, 0
            self._log_step(steps, mean, result.lr)

    def _settle_all(self) -> None:
        while self._pending:
            self._settle()

    def _describe_divergence(self, steps: int, loss: float, samples: Tensor) -> str:
        """Return a message that names the images of a batch, those of all processes."""
        own = [str(self._samples.sample(index).image) for index in samples.tolist()]
        images = [name for names in self.ranks.gather(own) for name in names]
        return (
            f"the loss is {loss} at step {steps} of {self.total}; {self._describe_saved()}. Lower --lr, set clip=1, or "
            f"look at the images of the batch: {', '.join(images)}"
        )

    def _describe_saved(self) -> str:
        return f"the checkpoint of step {self._saved} is kept" if self._saved else "there is no checkpoint yet"

    def _is_due(self, steps: int) -> bool:
        """Return whether a checkpoint is to be written now."""
        if steps == self._saved:
            return False
        every = self.config.checkpoint_every
        return steps % self.steps_per_epoch == 0 or (every > 0 and steps % every == 0)

    def _checkpoint(self) -> None:
        """Write a checkpoint. All processes call this."""
        self._settle_all()
        self._check_finite()
        cuda = self.ranks.device.type == "cuda"
        random = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if cuda else None}
        randoms = self.ranks.gather(random)
        if self.ranks.first:
            state = {
                "config": self.config.to_json(),
                "classes": self.data.classes,
                "data": fingerprint(self.data, self.config.train_split),
                "ranks": self.ranks.world,
                "training": self.step.state_dict(),
                "progress": asdict(self._progress),
                "random": randoms,
                "class_weights": self._class_weights,
                "segnets": __version__,
            }
            write_checkpoint(self.folder.checkpoint, state)
        self._saved = self.step.steps

    def _check_finite(self) -> None:
        """Check the weights, which a checkpoint must not keep if a gradient made them infinite.

        Raises:
            TrainingError: If a weight is not finite.
        """
        norms = torch._foreach_norm([*self.step.model.parameters()])
        if not bool(torch.stack(norms).isfinite().all()):
            raise TrainingError(
                f"a weight of the network is not finite after step {self.step.steps}; {self._describe_saved()}. Lower "
                "--lr, or set clip=1"
            )

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step.load_state_dict(state["training"])
        self._progress = _Progress(**state["progress"])
        self._saved = self.step.steps
        random = state["random"][self.ranks.rank]
        torch.set_rng_state(random["cpu"])
        if random["cuda"] is not None:
            torch.cuda.set_rng_state(random["cuda"])

    def _stop(self) -> None:
        """Write a checkpoint and end.

        Raises:
            KeyboardInterrupt: Always, with what to do.
        """
        self._checkpoint()
        steps = self.step.steps
        raise KeyboardInterrupt(
            f"stopped after step {steps} of {self.total} and saved {self.folder.checkpoint}; --resume goes on"
        )

    def _averaged(self) -> nn.Module:
        """Return the network to validate and to save: the moving average of the weights if there is one."""
        return self.step.model if self.step.average is None else self.step.average.module

    def _log_step(self, steps: int, loss: float, lr: float) -> None:
        if self.ranks.first:
            self._log.write({"step": steps, "epoch": (steps - 1) // self.steps_per_epoch + 1, "loss": loss, "lr": lr})

    def _validate(self) -> None:
        """Compute the scores of the network, and save it. All processes call this."""
        self._settle_all()
        model = self._averaged()
        self.ranks.share_buffers(model)
        training = model.training
        model.eval()
        matrix = ConfusionMatrix(len(self.data.classes))
        for sample in self.data.samples(self.config.val_split)[self.ranks.rank :: self.ranks.world]:
            pair = self.data.read(sample)
            mask = segment(model, torch.from_numpy(pair.image)[None].to(self.ranks.device))
            matrix.update(torch.from_numpy(pair.mask), mask[0].cpu())
        matrix.counts = self.ranks.sum(torch.from_numpy(matrix.counts).to(self.ranks.device)).cpu().numpy()
        model.train(training)
        steps = self.step.steps
        scores: dict[str, JSON] = {"step": steps, "mean_iou": matrix.mean_iou, "pixel_accuracy": matrix.pixel_accuracy}
        if self.ranks.first:
            self._log.write({**scores, "epoch": steps // self.steps_per_epoch})
            self._save(self.folder.last, scores)
            if self._progress.best is None or matrix.mean_iou > self._progress.best:
                self._save(self.folder.best, scores)
        self._progress.best = max(matrix.mean_iou, self._progress.best or 0.0)
        self._progress.history.append(scores)
        self._progress.validated = steps
        self.tell(f"step {steps} of {self.total}: mean IoU {matrix.mean_iou:.4f}")

    def _save(self, path: Path, scores: Mapping[str, JSON]) -> None:
        config = self.config
        provenance: dict[str, JSON] = {
            "tool": f"segnets train {__version__}",
            "data": Path(config.data).name,
            "split": config.train_split,
            "recipe": config.recipe,
            "seed": config.seed,
            "epochs": self.step.steps / self.steps_per_epoch,
            "scores": dict(scores),
        }
        save(self._averaged(), path, provenance=provenance)

    def _result(self) -> TrainingResult:
        history = self._progress.history
        return TrainingResult(
            self.folder.path, self.step.steps, self.config.epochs, history[-1] if history else {}, self._progress.best
        )


def card_of(model: nn.Module) -> ModelCard:
    """Return the card of a network.

    Raises:
        TrainingError: If it has none.
    """
    card = getattr(model, "card", None)
    if not isinstance(card, ModelCard):
        raise TrainingError(
            "the model has no card, so its preprocessing is unknown; set model.card = segnets.ModelCard(...)"
        )
    return card
