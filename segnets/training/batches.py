"""Training batches: loaded in a reproducible order, starting at any step, and normalised on the training device."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from segnets.data.loader import Batches, Example, Position, TrainSet
from segnets.errors import SegnetsError
from segnets.preprocessing import Preprocessing
from segnets.training.stopping import ignore_stops

_Fetched: TypeAlias = Example | SegnetsError


def load_batches(train_set: TrainSet, order: Batches, *, workers: int = 0, pinned: bool = False) -> Generator[Example]:
    """Yield batches, prepared in worker processes or in this one.

    The caller's random state is not changed. Close the generator to end the worker processes.

    Args:
        train_set: Augmented samples.
        order: Positions of the batches.
        workers: Number of worker processes. 0 prepares batches in this process.
        pinned: Whether to put batches into pinned memory, which speeds up copies to a GPU.

    Yields:
        Images (N, K, h, w) and masks (N, h, w), uint8, with the indices of their samples (N,).

    Raises:
        SegnetsError: If a sample can't be read.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than CPUs, as requested
        loader = DataLoader(
            _Caught(train_set),
            batch_sampler=order,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pinned,
            worker_init_fn=ignore_stops,
            generator=torch.Generator(),  # the loader draws a seed, by default from torch's global generator
        )
    for batch in loader:
        if isinstance(batch, SegnetsError):
            raise batch
        yield batch


class _Caught(Dataset[_Fetched]):
    """Samples, or the errors from reading them. DataLoader would add a worker traceback to a raised error."""

    def __init__(self, samples: TrainSet) -> None:
        self._samples = samples

    def __getitem__(self, position: Position) -> _Fetched:
        try:
            return self._samples[position]
        except SegnetsError as error:
            return error


def _collate(items: list[_Fetched]) -> _Fetched:
    for item in items:
        if isinstance(item, SegnetsError):
            return item
    batch: Example = default_collate(items)
    return batch


class Normaliser:
    """Conversion of uint8 batches to network input, equal to `segnets.preprocess` after resizing.

    Args:
        preprocessing: Means, standard deviations and channel order to apply.
        device: Device of the network.
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        self._swapped = preprocessing.channel_order == "BGR"
        self._device = device

    def __call__(self, batch: Example) -> tuple[Tensor, Tensor]:
        """Move a batch to the device and normalise it.

        Returns:
            Images (N, K, h, w), float32, and class ids (N, h, w) or planes (N, C, h, w), int64.
        """
        image = batch.image.to(self._device, non_blocking=True)
        target = batch.mask.to(self._device, non_blocking=True).long()
        if self._swapped:
            image = image.flip(1)
        return image.float().div_(255.0).sub_(self._mean).div_(self._std), target
