"""Training samples, with an order and augmentation that depend on the seed alone.

The order of an epoch is a function of (seed, epoch), and the augmentation of a sample a function of (seed, epoch,
index). Training can therefore resume at any step without replaying earlier ones.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segnets.data.dataset import DataSet, Pair, Sample
from segnets.data.threads import Readers
from segnets.errors import DataError

Augmentation = Callable[[Pair], tuple[Tensor, Tensor]]
Position = tuple[int, int]  # epoch, index of the sample
KEEP_BYTES = 2 << 30
_MOST_THREADS = 8


class Example(NamedTuple):
    """Augmented sample. `default_collate` turns several into a batch, which is also an Example.

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

    A position always gives the same example, in any process and any order.

    Args:
        data: Data set.
        split: Name of the split.
        augmentation: Turns a pair into tensors of a fixed size. It may draw from torch's, NumPy's and Python's global
            generators on the CPU. Their state is restored afterwards.
        seed: Seed of the run.

    Raises:
        DataError: If the split does not exist or is empty. On access, if a sample can't be read or the augmentation
            returns tensors of the wrong shape or dtype.
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
        """Return a sample without augmentation. Do not modify its arrays.

        Raises:
            DataError: If the sample can't be read.
        """
        return self._kept[index] if self._kept is not None else self.data.read(self.samples[index])

    def keep_in_memory(self, limit: int = KEEP_BYTES, progress: Callable[[int, int], None] | None = None) -> bool:
        """Decode all samples once, if they fit into `limit` bytes.

        Args:
            limit: Maximum total size of all pixels and masks, in bytes.
            progress: Callback (done, total) that receives numbers of decoded samples.

        Returns:
            Whether the samples are kept. If not, each is decoded on access.

        Raises:
            DataError: If a sample can't be read.
        """
        if len(self) * _bytes_of(self.pair(0)) > limit:
            return False
        kept: list[Pair] = []
        size = 0
        with Readers(min(_MOST_THREADS, os.cpu_count() or 1)) as readers:
            for pair in readers.map(self.data.read, self.samples):
                size += _bytes_of(pair)
                if size > limit:
                    return False
                kept.append(pair)
                if progress is not None:
                    progress(len(kept), len(self))
        self._kept = kept
        return True

    def sample(self, index: int) -> Sample:
        """Return the sample at an index, for messages."""
        return self.samples[index]


def _check_augmented(image: object, mask: object) -> None:
    """Check the result of an augmentation, which may be the caller's own."""
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
    """Endless sampler of batch positions, starting at any step.

    An epoch is a permutation of the samples, cut into batches. A last incomplete batch is dropped, as in torchvision's
    recipe. With several ranks, each takes its part of a batch of `batch * ranks` samples.

    Args:
        length: Number of samples.
        batch: Samples per batch and rank.
        seed: Seed of the run.
        start: First step, counted from the beginning of the run.
        stop: Step to stop before, or None for no end.
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
            raise DataError(f"{length} samples don't fill a batch of {batch}{processes}. Use a smaller --batch{fewer}.")
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
    """Return the order of the samples in an epoch, a permutation of 0..length-1, (length,), int64."""
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
