"""Trainings of a toy network on noise, which take a moment."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segnets.backbones.mobilenet_v3 import MobileNetV3Spec, small_blocks
from segnets.builders import Builder
from segnets.data import open_data
from segnets.heads import FCN, LRASPP
from segnets.registry import MODELS
from segnets.training import Trainer, TrainingConfig, TrainingResult
from segnets.training.checkpoints import read_checkpoint
from segnets.training.records import TIMES
from tests.data.common import write_folder

_TOY = MobileNetV3Spec("toy", "Toy", lambda **options: small_blocks(**options)[:4], 16)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register two networks of a few layers: lraspp_toy, and fcn_toy, which can have an auxiliary classifier."""
    for head in (LRASPP, FCN):
        name = f"{head.name}_toy"
        monkeypatch.setitem(MODELS, name, replace(Builder(head, _TOY), name=name))
    monkeypatch.setattr("segnets.training.precision.has_bfloat16", lambda: False)  # a measurement, of changing result
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # processes are forked
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of seven and two images."""
    return write_folder(tmp_path_factory.mktemp("data"), train=7, val=2)


def config_of(folder: Path, out: Path, **options: Any) -> TrainingConfig:
    """Return a configuration of two epochs of three steps, with a row of the log for each step."""
    defaults: dict[str, Any] = {
        "model": "fcn_toy",  # has dropout
        "recipe": "light",
        "crop": 24,
        "epochs": 2,
        "batch": 2,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    return TrainingConfig(data=str(folder), out=str(out), **{**defaults, **options})


def trainer_of(config: TrainingConfig, **options: Any) -> Trainer:
    """Return a trainer that prints nothing."""
    return Trainer(config, open_data(config.data), **{"tell": lambda _message: None, **options})


def run_training(config: TrainingConfig, *, resume: bool = False, **options: Any) -> TrainingResult:
    return trainer_of(config, **options).run(resume=resume)


def rows_of(out: Path) -> list[dict[str, str]]:
    """Return the rows of the log without the columns that differ from run to run."""
    with (out / "log.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def check_same_runs(one: Path, other: Path) -> None:
    """Check that two trainings are equal bit for bit: checkpoint, log and weights files."""
    _check_same(read_checkpoint(one / "last.ckpt"), read_checkpoint(other / "last.ckpt"), "")
    assert rows_of(one) == rows_of(other)
    for name in ("last.safetensors", "best.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def _check_same(one: Any, other: Any, where: str) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if where != "/config" or key not in ("out", "workers"):
                _check_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            _check_same(*pair, f"{where}/{number}")
    else:
        assert one == other, where
