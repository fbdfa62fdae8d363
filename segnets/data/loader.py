"""Samples for training: augmented in an order and with random numbers that depend on the seed alone.

The order of an epoch is a function of (seed, epoch), and the augmentation of a sample a function of (seed, epoch,
index). So training can go on at any step without replaying the steps before it.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segnets.data.dataset import DataSet, Pair, Sample
from segnets.errors import DataError

Augmentation = Callable[[Pair], tuple[Tensor, Tensor]]
Position = tuple[int, int]  # epoch, index of the sample
KEEP_BYTES = 2 << 30
_MOST_THREADS = 8


class Example(NamedTuple):
    """An augmented sample. `default_collate` makes a batch of them, an Example too.

    Attributes:
        image: Pixels of shape (K, h, w), uint8.
        mask: Class ids of shape (h, w), or planes of shape (C, h, w), uint8, 255 for ignored pixels.
        sample: Index of the sample in its split.
    """

    image: Tensor
    mask: Tensor
    sample: int


class TrainSet(torch.utils.data.Dataset[Example]):
    """Augmented samples of one split, by (epoch, index).

    The same position gives the same example, in any process and after any other one.

    Args:
        data: Data set.
        split: Name of the split.
        augmentation: Turns a pair into tensors of a fixed size. It may draw from torch's, NumPy's and Python's global
            generators on the CPU. Its effect on them does not last.
        seed: Seed of the training.

    Raises:
        DataError: If the split does not exist or is empty; of a sample, if it can't be read or the augmentation returns
            something else.
    """

    def __init__(self, data: DataSet, split: str, augmentation: Augmentation, seed: int) -> None:
        self.data, self.samples = data, data.samples(split)
        self.augmentation, self.seed = augmentation, seed
        self._kept: list[Pair] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: Position) -> Example:
        epoch, index = position
        pair = self.pair(index)
        with seeded(self.seed, epoch, index):
            image, mask = self.augmentation(pair)
        _check_augmented(image, mask)
        return Example(image, mask, index)

    def pair(self, index: int) -> Pair:
        """Return a sample without augmentation. Its arrays must not be changed."""
        return self._kept[index] if self._kept is not None else self.data.read(self.samples[index])

    def keep_in_memory(self, limit: int = KEEP_BYTES, progress: Callable[[int, int], None] | None = None) -> bool:
        """Decode all samples once, if they fit into `limit` bytes.

        Args:
            limit: Largest size of all pixels and masks together.
            progress: Called with the number of decoded samples, and of all.

        Returns:
            Whether they are kept. If not, each is decoded when it is asked for.
        """
        if len(self) * _bytes_of(self.pair(0)) > limit:
            return False
        kept: list[Pair] = []
        size = 0
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
            for pair in threads.map(self.data.read, self.samples):
                size += _bytes_of(pair)
                if size > limit:
                    threads.shutdown(cancel_futures=True)
                    return False
                kept.append(pair)
                if progress is not None:
                    progress(len(kept), len(self))
        self._kept = kept
        return True

    def sample(self, index: int) -> Sample:
        """Return which sample an index is, for messages."""
        return self.samples[index]


def _check_augmented(image: object, mask: object) -> None:
    """Check what an augmentation returned: callers pass their own."""
    for what, tensor, dimensions in (("image", image, (3,)), ("mask", mask, (2, 3))):
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.uint8 or tensor.ndim not in dimensions:
            got = f"{tuple(tensor.shape)} {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise DataError(
                f"augmentation: returned {got} as the {what}. Return an image (K, h, w) and a mask (h, w), uint8 "
                "tensors. They are normalised later."
            )
    sizes = [tuple(each.shape[-2:]) for each in (image, mask) if isinstance(each, Tensor)]
    if sizes[0] != sizes[1]:
        raise DataError(f"augmentation: returned an image of {sizes[0]} and a mask of {sizes[1]}. Return equal sizes.")


def _bytes_of(pair: Pair) -> int:
    return pair.image.nbytes + pair.mask.nbytes


class Batches(torch.utils.data.Sampler[list[Position]]):
    """Positions of the batches of a training, from any step on, without end.

    An epoch is a permutation of the samples, cut into batches; a rest that fills no batch is left out, as in
    torchvision's recipe. With several ranks each takes its part of a batch of `batch * ranks` samples.

    Args:
        length: Number of samples.
        batch: Samples per batch and rank.
        seed: Seed of the training.
        start: First step, counted from the beginning of the training.
        stop: Step to end before, or None.
        rank: Rank of this process.
        ranks: Number of processes.

    Raises:
        DataError: If there are fewer samples than one step takes.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        seed: int,
        *,
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if batch < 1 or length < batch * ranks:
            processes, fewer = (f" on each of {ranks} processes", ", or fewer processes") if ranks > 1 else ("", "")
            raise DataError(
                f"{length} samples don't fill a batch of {batch}{processes}. Take a smaller --batch{fewer}."
            )
        self.length, self.batch, self.seed, self.rank, self.ranks = length, batch, seed, rank, ranks
        self.start, self.stop = start, stop
        self.steps_per_epoch = length // (batch * ranks)

    def __iter__(self) -> Iterator[list[Position]]:
        epoch, step = divmod(self.start, self.steps_per_epoch)
        at = self.start
        while self.stop is None or at < self.stop:
            if step == self.steps_per_epoch:
                epoch, step = epoch + 1, 0
            if step == 0 or at == self.start:
                order = epoch_order(self.length, self.seed, epoch)
            first = (step * self.ranks + self.rank) * self.batch
            yield [(epoch, int(index)) for index in order[first : first + self.batch]]
            step, at = step + 1, at + 1


def epoch_order(length: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of the samples in an epoch, a permutation of 0..length-1."""
    return np.random.default_rng([seed, epoch]).permutation(length)


def seed_of(seed: int, epoch: int, index: int) -> int:
    """Return the seed of one sample in one epoch, 0..2**63-1."""
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seed the generators of torch (CPU), NumPy and Python for a block, and restore them after it."""
    value = seed_of(seed, epoch, index)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(value)  # torch.manual_seed would seed the GPUs too
    np.random.seed(value % 2**32)
    random.seed(value)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
