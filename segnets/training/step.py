"""One training step: forward and backward passes for one or more batches, and an optimizer step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from segnets.training.config import TrainingConfig
from segnets.training.distributed import Ranks
from segnets.training.ema import ExponentialAverage
from segnets.training.gradients import FasterGradients
from segnets.training.losses import Objective
from segnets.training.metrics import VOID
from segnets.training.optim import scale_learning_rates

Batch = tuple[Tensor, Tensor]
_AMP = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """Result of one training step.

    Attributes:
        loss: Loss averaged over batches and processes, a scalar on the training device, without gradient.
        lr: Learning rate of the first parameter group.
    """

    loss: Tensor
    lr: float


class TrainingStep:
    """Training step of a network, with the state that a checkpoint has to store.

    A call takes a list of batches and makes one optimizer step. Their losses are averaged by valid pixels.

    Args:
        model: Network to train, on its device.
        optimizer: From `build_optimizer`.
        loss: From `loss_of`.
        schedule: Function from the step number, from 0, to the factor on the learning rate; from `schedule_of`.
        config: Options `amp`, `clip`, `ema`, `compile`, `channels_last` and `loss_average`.
        ranks: Rank and device of this process. None for a single process.
        teacher: Teacher for distillation, on the same device. It gets the same images.

    Attributes:
        model: The network itself, without wrappers.
        average: Moving average of the weights, or None.
        steps: Number of completed steps.

    Example:
        >>> step = TrainingStep(model, build_optimizer(model, config), loss_of(config), schedule, config)
        >>> for images, masks in batches:
        ...     print(step([(images, masks)]).loss.item())
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Objective,
        schedule: Callable[[int], float],
        config: TrainingConfig,
        ranks: Ranks | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.ranks = ranks or Ranks(device=next(model.parameters()).device)
        if config.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.optimizer = optimizer
        self.average = ExponentialAverage(model, config.ema) if config.ema else None
        self.steps = 0
        self._loss = loss
        self._schedule = schedule
        self._config = config
        self._teacher = teacher
        self._parallel = self._in_parallel(model) if self.ranks.world > 1 else None
        network = self._parallel or model
        self._network: Any = torch.compile(network) if config.compile else network
        # A compiler chooses layouts and kernels itself. Without channels_last, steps are those of torchvision's script.
        self._gradients = FasterGradients(model) if config.channels_last and not config.compile else None
        self._scaler = torch.amp.GradScaler(self.ranks.device.type, enabled=config.amp == "float16")
        self._shared = self.ranks.world > 1 and config.loss_average == "all"

    def _in_parallel(self, model: nn.Module) -> DistributedDataParallel:
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)

    def __call__(self, batches: Sequence[Batch]) -> StepResult:
        """Take one optimizer step.

        Args:
            batches: Pairs of normalised images (N, C, H, W), float32, and class ids (N, H, W), int64, where 255 is
                ignored; both on the network's device. Gradients are accumulated over the batches.

        Returns:
            The loss before the step, and the learning rate.
        """
        scale_learning_rates(self.optimizer, self._schedule(self.steps))
        self.optimizer.zero_grad(set_to_none=True)
        weights = [None] if len(batches) == 1 else self._weights(batches)
        total: Tensor | None = None
        for number, (weight, (images, target)) in enumerate(zip(weights, batches, strict=True), start=1):
            with self._synchronised(number == len(batches)), self._faster_gradients():
                with self._autocast():
                    loss = self._loss_of(images, target, alone=weight is None)
                    loss = loss if weight is None else loss * weight
                self._scaler.scale(loss).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        if self._config.clip:
            self._scaler.unscale_(self.optimizer)
            parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self._config.clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.average is not None:
            self.average.update()
        self.steps += 1
        return StepResult(self._reported(total), self.optimizer.param_groups[0]["lr"])

    def _loss_of(self, images: Tensor, target: Tensor, *, alone: bool) -> Tensor:
        outputs = self._forward(self._network, images)
        if self._gradients is not None:
            outputs = self._gradients.replace_resize(outputs)
        teacher = None
        if self._teacher is not None:
            with torch.no_grad():
                teacher = self._forward(self._teacher, images)["out"]
        share = self._mean_of_ranks if self._shared and alone else None
        return self._loss(outputs, target, teacher=teacher, share=share)

    def _weights(self, batches: Sequence[Batch]) -> list[Tensor | None]:
        """Return each batch's share of the step's valid pixels, times the number of processes that share the loss.

        `DistributedDataParallel` divides the gradients by that number.
        """
        counts = torch.stack([(target != VOID).sum() for _, target in batches]).float()
        whole = counts.sum()
        if self._shared:
            whole = self._mean_of_ranks(whole)
        return [*(counts / whole.clamp(min=1)).unbind()]

    def _mean_of_ranks(self, values: Tensor) -> Tensor:
        return self.ranks.sum(values.clone()) / self.ranks.world

    def _reported(self, loss: Tensor) -> Tensor:
        """Average the loss over all processes."""
        return loss if self.ranks.world == 1 else self._mean_of_ranks(loss)

    def _forward(self, network: Callable[[Tensor], Mapping[str, Tensor]], images: Tensor) -> Mapping[str, Tensor]:
        if self._config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return network(images)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._config.amp == "no":
            return contextlib.nullcontext()
        return torch.autocast(self.ranks.device.type, dtype=_AMP[self._config.amp])

    def _faster_gradients(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._gradients is None else self._gradients.enabled()

    def _synchronised(self, synchronised: bool) -> contextlib.AbstractContextManager[Any]:
        if synchronised or self._parallel is None:
            return contextlib.nullcontext()
        return self._parallel.no_sync()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores, for a checkpoint."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "steps": self.steps,
        }

    @property
    def averaged_model(self) -> nn.Module:
        """Network to validate and save: with averaged weights if they are enabled."""
        return self.model if self.average is None else self.average.module

    def checkpoint_bytes(self) -> int:
        """Estimate the size of `state_dict` in bytes, including optimizer buffers that do not exist yet."""
        copies = 1 + (2 if isinstance(self.optimizer, torch.optim.AdamW) else 1) + (self.average is not None)
        return self.weights_bytes() * copies

    def weights_bytes(self) -> int:
        """Return the size of the model's parameters and buffers in bytes."""
        return sum(each.numel() * each.element_size() for each in self.model.state_dict().values())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the weights, the optimizer, the scaler, the average and the number of steps."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.steps = state["steps"]
