"""Samples and their order are functions of the seed and the step, whatever was done before."""

from __future__ import annotations

import pickle
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segnets.data import DataSet, Pair, open_data
from segnets.data.loader import Batches, Example, TrainSet, epoch_order
from segnets.errors import DataError
from tests.data.common import write_folder


def noisy(pair: Pair) -> tuple[Tensor, Tensor]:
    """Return an image with random numbers of all three generators."""
    image = torch.from_numpy(pair.image).permute(2, 0, 1).clone()
    image[0, 0, :3] = torch.tensor([random.randrange(256), np.random.randint(256), int(torch.randint(256, ()))])
    return image, torch.from_numpy(pair.mask)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return open_data(write_folder(tmp_path))


def test_a_position_gives_the_same_example_each_time(data: DataSet) -> None:
    train, again = TrainSet(data, "train", noisy, 7), TrainSet(data, "train", noisy, 7)
    first = train[3, 1]
    train[0, 0], train[3, 2]
    assert isinstance(first, Example)
    assert first.sample == 1
    assert (first.image == again[3, 1].image).all()
    assert (first.mask == torch.from_numpy(data.read(data.samples("train")[1]).mask)).all()
    others = [train[2, 1], train[3, 2], TrainSet(data, "train", noisy, 8)[3, 1]]
    assert all((first.image[0, 0, :3] != other.image[0, 0, :3]).any() for other in others)


def test_the_callers_generators_go_on_as_if_nothing_was_drawn(data: DataSet) -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = drawn()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    TrainSet(data, "train", noisy, 0)[0, 0]
    assert drawn() == expected


def test_images_are_kept_in_memory_within_a_limit(data: DataSet) -> None:
    train = TrainSet(data, "train", noisy, 0)
    fresh = train[0, 0]
    size = 4 * 32 * 40 * 4
    assert not train.keep_in_memory(size - 1)
    seen: list[int] = []
    assert train.keep_in_memory(size, lambda done, _total: seen.append(done))
    assert seen == [1, 2, 3, 4]
    for sample in train.samples:
        sample.image.unlink()
    assert (train[0, 0].image == fresh.image).all()
    assert (pickle.loads(pickle.dumps(train))[0, 0].image == fresh.image).all()


def test_workers_give_what_one_process_gives(data: DataSet) -> None:
    train = TrainSet(data, "train", noisy, 0)
    batches = [
        list(torch.utils.data.DataLoader(train, batch_sampler=Batches(4, 2, 0, stop=3), num_workers=workers))
        for workers in (0, 1)
    ]
    for one, other in zip(*batches, strict=True):
        assert isinstance(one, Example)
        assert one.image.shape == (2, 3, 32, 40)
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.mask, other.mask)
        assert torch.equal(torch.as_tensor(one.sample), torch.as_tensor(other.sample))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((torch.zeros(3, 4, 4), torch.zeros(4, 4).byte()), r"returned \(3, 4, 4\) torch.float32 as the image"),
        ((torch.zeros(3, 4, 4).byte(), torch.zeros(4, 4).long()), r"returned \(4, 4\) torch.int64 as the mask"),
        ((torch.zeros(3, 4, 4).byte(), np.zeros((4, 4), np.uint8)), "returned ndarray as the mask"),
        (
            (torch.zeros(1, 3, 4, 4).byte(), torch.zeros(4, 4).byte()),
            r"returned \(1, 3, 4, 4\) torch.uint8 as the image",
        ),
        ((torch.zeros(3, 4, 4).byte(), torch.zeros(4, 5).byte()), r"an image of \(4, 4\) and a mask of \(4, 5\)"),
    ],
)
def test_an_augmentation_that_returns_something_else(data: DataSet, result: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TrainSet(data, "train", lambda _pair: result, 0)[0, 0]


def test_batches_start_anywhere() -> None:
    everything = list(Batches(10, 3, 5, stop=10))
    assert [len(batch) for batch in everything] == [3] * 10
    assert [batch[0][0] for batch in everything] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    for start in range(10):
        assert list(Batches(10, 3, 5, start=start, stop=10)) == everything[start:]
    assert len({*everything[0], *everything[1], *everything[2]}) == 9
    assert [index for _, index in everything[0]] != [index for _, index in everything[3]]


def test_a_late_step_is_reached_at_once() -> None:
    started = time.perf_counter()
    first = next(iter(Batches(367, 8, 0, start=10_000_000)))
    assert time.perf_counter() - started < 0.5
    assert first[0][0] == 10_000_000 // 45


def test_ranks_share_a_batch() -> None:
    whole = next(iter(Batches(20, 4, 0, start=3)))
    parts = [next(iter(Batches(20, 2, 0, start=3, rank=rank, ranks=2))) for rank in (0, 1)]
    assert [*parts[0], *parts[1]] == whole


def test_the_order_of_an_epoch_is_a_permutation() -> None:
    orders = [epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize(("batch", "ranks"), [(5, 1), (3, 2), (0, 1)])
def test_too_few_samples_are_refused(batch: int, ranks: int) -> None:
    with pytest.raises(DataError, match=rf"4 samples don't fill a batch of {batch}( on each of {ranks} processes)?\."):
        Batches(4, batch, 0, ranks=ranks)


def test_a_split_that_is_not_there_is_named(data: DataSet) -> None:
    with pytest.raises(DataError, match=r"the split 'test' does not exist. Splits with images: train, val"):
        TrainSet(data, "test", noisy, 0)
