"""Assembly of a training run: samples, network, optimizer, loss and the training step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from segnets.card import Decoding, ModelCard
from segnets.data.augment import training_augmentation
from segnets.data.check import evenly_spread
from segnets.data.dataset import DataSet
from segnets.data.loader import Augmentation, Batches, Example, TrainSet
from segnets.deploy import keep_freed_memory
from segnets.errors import DataError, TrainingError
from segnets.layers.norm import is_batch_norm
from segnets.registry import find_builder
from segnets.training.batches import Normaliser, load_batches
from segnets.training.class_weights import class_frequencies, class_weights_of
from segnets.training.config import TrainingConfig
from segnets.training.distributed import Ranks
from segnets.training.losses import Objective, loss_of
from segnets.training.optim import build_optimizer
from segnets.training.precision import bfloat16_advice
from segnets.training.progress import SlowWork
from segnets.training.schedules import schedule_of
from segnets.training.starting import build_network, describe_network, rebuild_network
from segnets.training.step import StepResult, TrainingStep
from segnets.weights import load

_MOST_REMOTE_MASKS = 2000  # read from a server for class_weights


class Assembly:
    """Samples, network, optimizer and loss of a run, combined into a training step.

    Args:
        config: Training options.
        data: Data set with class names.
        ranks: Rank, number of processes and device of this process.
        model: Network to train instead of the one in `config`. It must have a card.
        loss: Loss to use instead of the one in `config`.
        augmentation: Augmentation to use instead of the one in `config`.
        tell: Callback that receives each message for the user.

    Attributes:
        samples: Augmented samples of the training split.
        steps_per_epoch: Number of steps per epoch.
        total: Number of steps in the run.
        images: Number of images per step, over all processes.
        step: Training step. Set by `build`.
        class_weights: Weight of each class in the loss, C numbers, or None for equal weights. Set by `build`.

    Raises:
        DataError: If the data set has no class names, no training split, or too few images for one batch.
        TrainingError: If the network name is unknown, or the masks do not match `config.decoding`.
    """

    step: TrainingStep
    class_weights: list[float] | None

    def __init__(
        self,
        config: TrainingConfig,
        data: DataSet,
        ranks: Ranks,
        *,
        model: nn.Module | None = None,
        loss: Objective | None = None,
        augmentation: Augmentation | None = None,
        tell: Callable[[str], None],
    ) -> None:
        if not data.classes:
            raise DataError(f"{data.path}: has no class names. Write a dataset.toml, or pass --classes.")
        if data.planes and config.decoding != "multilabel":
            raise TrainingError(
                f"{data.path}: its masks have a plane per class, which decoding={config.decoding} does not support. "
                "Pass --set decoding=multilabel."
            )
        if len(data.classes) == 1 and config.decoding == "argmax":
            raise TrainingError(
                f"{data.path}: has only one class, {data.classes[0]!r}, so every pixel would get it. Add the "
                "background as the first class. With both, --set decoding=threshold trains one output with a sigmoid."
            )
        if model is None:
            _check_name(config.model)
        self._config = config
        self._data = data
        self._ranks = ranks
        self._model = model
        self._loss = loss
        self._tell = tell
        self.samples = TrainSet(data, config.train_split, augmentation or training_augmentation(config), config.seed)
        self.steps_per_epoch = self._order(0).steps_per_epoch
        self.total = config.epochs * self.steps_per_epoch
        self.images = config.batch * config.accumulate * ranks.world

    def _order(self, start: int) -> Batches:
        config, ranks = self._config, self._ranks
        return Batches(
            len(self.samples),
            config.batch * config.accumulate,
            config.seed,
            start=start,
            rank=ranks.rank,
            ranks=ranks.world,
        )

    def build(self, state: Mapping[str, Any] | None = None) -> None:
        """Build the network, the optimizer, the loss and the training step.

        Args:
            state: Checkpoint of this run, or None to start from the beginning.

        Raises:
            TrainingError: If an option has no effect on the network, or contradicts the data.
            WeightsError: If the starting weights are not found or do not fit the network.
            DataError: If a sample can't be read.
        """
        config, data, device = self._config, self._data, self._ranks.device
        if self._model is not None:
            model = self._model
        elif state is not None:
            model = rebuild_network(config, state["network"], data.classes, palette=data.colours)
        else:
            model = build_network(config, data.classes, palette=data.colours, channels=data.channels, tell=self._tell)
        model = self._synchronised(model.to(device))
        if device.type == "cpu":
            keep_freed_memory()
        preprocessing = card_of(model).preprocessing
        self._in_memory = self.samples.keep_in_memory(progress=SlowWork(self._tell, "images decoded into memory"))
        self.class_weights = self._weights_of_classes() if state is None else state["class_weights"]
        weights = None if self.class_weights is None else torch.tensor(self.class_weights, device=device)
        if weights is not None and weights.shape != (len(self._data.classes),):
            raise ValueError(f"{weights.numel()} class weights for {len(self._data.classes)} classes")
        self._normalise = Normaliser(preprocessing, device)
        total = self._ranks.total if config.loss_average == "all" else None
        self.step = TrainingStep(
            model,
            build_optimizer(model, config),
            self._loss or loss_of(config, weights, total=total),
            schedule_of(config, self.steps_per_epoch),
            config,
            self._ranks,
            self._teacher(card_of(model)) if config.teacher else None,
        )
        if state is not None:
            self.step.load_state_dict(state["training"])
        elif self._ranks.first and (advice := bfloat16_advice(model, config, channels=data.channels)):
            self._tell(advice)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `build` restores from a checkpoint."""
        return {
            "network": describe_network(self.step.model),
            "training": self.step.state_dict(),
            "class_weights": self.class_weights,
        }

    def _synchronised(self, model: nn.Module) -> nn.Module:
        """Convert the batch norms to SyncBatchNorm if several processes train on GPUs."""
        if self._ranks.world == 1 or self._config.norm_eval or not any(map(is_batch_norm, model.modules())):
            return model
        if self._ranks.device.type == "cuda":
            converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            return converted
        self._tell("on CPUs, batch norms use the statistics of each process's own batch; norm_eval=true avoids this")
        return model

    def _weights_of_classes(self) -> list[float] | None:
        choice, count = self._config.class_weights, len(self._data.classes)
        frequencies = None
        if choice in ("enet", "median"):
            frequencies = class_frequencies(self._masks(), count)
        weights = class_weights_of(choice, frequencies, count)
        return None if weights is None else weights.tolist()

    def _masks(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the masks of the training split, or some of them if they are on a server and not in memory."""
        progress = SlowWork(self._tell, "masks counted for class_weights")
        some = self._data.remote and not self._in_memory
        chosen = evenly_spread(range(len(self.samples)), _MOST_REMOTE_MASKS if some else None)
        if len(chosen) < len(self.samples):
            self._tell(f"class_weights: counted in {len(chosen):,} of {len(self.samples):,} masks, evenly spread")
        for done, index in enumerate(chosen):
            progress(done, len(chosen))
            if self._in_memory:
                yield self.samples.pair(index).mask
            else:
                sample = self.samples.sample(index)
                yield self._data.ids_of(self._data.read_values(sample), sample)

    def _teacher(self, card: ModelCard) -> nn.Module:
        """Load the teacher for distillation. It must take the same input as the network."""
        path = self._config.teacher
        teacher: Any = load(path)
        known = card_of(teacher)
        if known.classes != card.classes:
            raise TrainingError(f"teacher {path}: its classes differ from the data's: {', '.join(known.classes)}")
        ours, theirs = ((each.mean, each.std, each.channel_order) for each in (card.preprocessing, known.preprocessing))
        if ours != theirs:
            raise TrainingError(f"teacher {path}: its mean, std or channel order differs from this network's")
        rule = (known.decoding or Decoding.default(teacher.config.options["num_classes"])).rule
        if rule != self._config.decoding:
            raise TrainingError(
                f"teacher {path}: its decoding is {rule}, but this network's is {self._config.decoding}; their logits "
                "mean different things. Train both with the same decoding"
            )
        own, its = (each.describe_resize() for each in (card.preprocessing, known.preprocessing))
        if own != its:
            self._tell(f"teacher {path}: was made for another image size ({its}) than these crops ({own})")
        frozen: nn.Module = teacher.to(self._ranks.device).requires_grad_(False).eval()
        return frozen

    def batches(self) -> Generator[Example]:
        """Yield batches endlessly, starting at the current step.

        Yields:
            Images (N, K, h, w) and masks (N, h, w) or (N, C, h, w), uint8, and sample indices (N,).

        Raises:
            SegnetsError: If a sample can't be read.
        """
        pinned = self._ranks.device.type == "cuda"
        return load_batches(self.samples, self._order(self.step.steps), workers=self._config.workers, pinned=pinned)

    def make_step(self, example: Example) -> StepResult:
        """Train on one batch: forward and backward passes and one optimizer step.

        Args:
            example: Batch from `batches`.

        Returns:
            The loss, averaged over all processes, and the learning rate.

        Raises:
            TrainingError: If the GPU runs out of memory, or a batch norm gets a single value per channel.
        """
        config = self._config
        images, target = self._normalise(example)
        parts = config.accumulate
        try:
            return self.step([*zip(images.chunk(parts), target.chunk(parts), strict=True)])
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"{self._ranks.device}: not enough memory for batches of {config.batch} crops of {config.crop}x"
                f"{config.crop}; lower --batch (and raise accumulate), lower --crop, or set gradient_checkpointing=true"
            ) from None
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                f"batch norm can't be trained with one value per channel, which a batch of {config.batch} crops of "
                f"{config.crop}x{config.crop} leaves in some layer; raise --batch, or keep the statistics of the "
                "starting weights (--set norm_eval=true)"
            ) from None

    def files_of(self, example_indices: Tensor) -> list[str]:
        """Return the image paths of the current batch over all processes. All processes must call this.

        Args:
            example_indices: Sample indices of the batch of this process, (N,).
        """
        own = [str(self.samples.sample(index).image) for index in example_indices.tolist()]
        return [name for names in self._ranks.gather(own) for name in names]

    def indices_of(self, example: Example) -> Tensor:
        """Return the sample indices of a batch, (N,)."""
        return cast(Tensor, example.sample)  # a tensor in a batch


def _check_name(name: str) -> None:
    """Check the network name early: reading the data can take minutes."""
    try:
        find_builder(name)
    except ValueError as error:
        raise TrainingError(str(error)) from None


def card_of(model: nn.Module) -> ModelCard:
    """Return the card of a network.

    Raises:
        TrainingError: If the network has no card.
    """
    card = getattr(model, "card", None)
    if not isinstance(card, ModelCard):
        raise TrainingError(
            "the model has no card, so its preprocessing is unknown; set model.card = segnets.ModelCard(...)"
        )
    return card
