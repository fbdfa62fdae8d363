"""Trainings of two processes on CPUs, as torchrun starts them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from segnets.errors import DataError, OutputError, SegnetsError, TrainingError, WeightsError
from segnets.training import TrainingConfig, train
from segnets.training.checkpoints import read_checkpoint
from segnets.training.distributed import Ranks, _store, joined, was_restarted
from tests.data.common import write_folder
from tests.tiers import full_but
from tests.training.runs import check_same_runs, config_of, folder, rows_of, run_training, toys

__all__ = ["folder", "toys"]


def _in_processes(config: TrainingConfig, **options: Any) -> list[str]:
    """Train in two processes; return their errors."""
    return _results(lambda: train(config, tell=lambda _message: None, **options))


def _results(work: Callable[[], Any]) -> list[str]:
    """Call a function in two processes; return its texts, and its errors, apart from empty ones."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [context.Process(target=_work, args=(rank, port, work, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join(60)
        assert not process.is_alive()
    return [text for text in found if text]


def _work(rank: int, port: int, work: Callable[[], Any], results: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        result = work()
        results.put(result if isinstance(result, str) else "")
    except BaseException as error:
        results.put(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


@pytest.mark.parametrize("epochs", full_but([3], [3, 10]))
def test_two_processes_train_like_one(epochs: int, tmp_path: Path) -> None:
    """With the doubled batch, over 6 and 20 steps: the loss is averaged over the valid pixels of both."""
    data = write_folder(tmp_path / "data", train=9, val=3)
    options: dict[str, Any] = {
        "model": "lraspp_toy",
        "norm_eval": True,
        "epochs": epochs,
        "optimizer": "sgd",
        "lr": 0.05,
        "seed": 3,
    }
    run_training(config_of(data, tmp_path / "one", batch=4, **options))
    assert _in_processes(config_of(data, tmp_path / "two", batch=2, **options)) == []
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for ours, theirs in zip(two, one, strict=True):
        for name in ("loss", "lr", "mean_iou"):
            assert bool(ours[name]) == bool(theirs[name])
            if ours[name]:
                assert float(ours[name]) == pytest.approx(float(theirs[name]), abs=1e-5)


def test_a_process_without_validation_images(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", val=1)
    assert _in_processes(config_of(data, tmp_path / "run", epochs=1, loss_average="rank", accumulate=2, batch=1)) == []
    assert rows_of(tmp_path / "run")[-1]["mean_iou"]


def test_the_first_process_shares_its_statistics() -> None:
    def work() -> str:
        with joined("cpu") as ranks:
            norm = nn.BatchNorm2d(1)
            assert norm.running_mean is not None
            norm.running_mean.fill_(ranks.rank + 1)
            ranks.share_buffers(norm)
            stops = [ranks.any(ranks.rank == 1), ranks.any(False)]
            return f"{norm.running_mean.item()} {stops} {ranks.gather(ranks.rank)}"

    assert _results(work) == ["1.0 [True, False] [0, 1]"] * 2


@pytest.mark.full
def test_two_processes_resume_exactly(folder: Path, tmp_path: Path) -> None:
    whole, cut = (config_of(folder, tmp_path / name, batch=1) for name in ("whole", "cut"))
    assert _in_processes(whole) == []

    def end(report: Any) -> None:
        if report.step == 4:
            raise RuntimeError("the power fails")

    assert len(_in_processes(cut, on_step=end)) == 2
    assert _in_processes(cut, resume=True) == []
    check_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_another_number_of_processes_is_refused(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, tmp_path / "run", epochs=1)
    run_training(config)
    errors = _in_processes(config, resume=True)
    assert len(errors) == 2
    assert "was made by 1 processes, but now there are 2" in errors[0]


def test_an_unreadable_image_of_one_process_ends_both(tmp_path: Path) -> None:
    """The training is saved; so is it if only one process reads the image in a validation."""
    data = write_folder(tmp_path / "data", train=4, val=2)
    (data / "val" / "images" / "101.png").write_bytes(b"")
    config = config_of(data, tmp_path / "run", batch=1, epochs=1, checkpoint_every=0)
    errors = _in_processes(config)
    assert len(errors) == 2
    for error in errors:
        assert error.startswith("DataError: ")
        assert "101.png: is empty" in error
        assert "The run was saved after step 2; continue with --resume" in error
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["training"]["steps"] == 2


def test_an_error_of_one_process_is_raised_in_all() -> None:
    def work() -> str:
        with joined("cpu") as ranks:
            found = []
            for kind in (DataError, OutputError, WeightsError):
                try:
                    with ranks.agreed():
                        if ranks.rank == 1:
                            raise kind("of one process")
                except SegnetsError as error:
                    found.append(f"{type(error).__name__}: {error}")
            with ranks.agreed():
                pass
            return "; ".join(found)

    expected = "DataError: of one process; OutputError: of one process; TrainingError: of one process"
    assert _results(work) == [expected] * 2


def test_a_process_that_ends_is_told() -> None:
    def work() -> str:
        with joined("cpu") as ranks:
            if ranks.rank == 1:
                return ""
            ranks.wait()
            ranks.any(False)
        return ""

    (error,) = _results(work)
    assert error.startswith("TrainingError: process 0 of 2: lost the connection to another process, which ended")


def test_more_processes_than_images(tmp_path: Path) -> None:
    from tests.training.runs import trainer_of

    data = write_folder(tmp_path / "data", train=3)
    with pytest.raises(DataError, match="3 samples don't fill a batch of 2 on each of 2 processes"):
        trainer_of(config_of(data, tmp_path / "run"), ranks=Ranks(0, 2))


def test_a_restart_sees_no_addresses_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun keeps it
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": server.port, "RANK": 1, "WORLD_SIZE": 2}
    for name, value in (variables | {"TORCHELASTIC_USE_AGENT_STORE": True, "LOCAL_WORLD_SIZE": 2}).items():
        monkeypatch.setenv(name, str(value))
    for restarts in range(2):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        store = _store()
        assert not store.check(["address"])
        store.set("address", "that of this process")
        assert _store().check(["address"])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # on two machines, which count restarts separately
    _store().set("address", "that of this process")
    assert server.check(["address"])


@pytest.mark.full
def test_torchrun_starts_killed_processes_again(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", val=1)
    options = ["--model", "lraspp_mobilenet_v3_small", "--crop", "32", "--batch", "2", "--epochs", "6"]
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2", "-m", "segnets", "train"]
    arguments = [sys.executable, *command, str(data), *options, "--out", str(tmp_path / "run")]
    output, ends = tmp_path / "output.txt", time.monotonic() + 240
    with output.open("w") as file, subprocess.Popen(arguments, stdout=file, stderr=file) as started:
        try:
            for epoch in ("epoch 1 of 6", "epoch 3 of 6"):
                while epoch not in output.read_text():
                    assert started.poll() is None, output.read_text()
                    assert time.monotonic() < ends, output.read_text()
                    time.sleep(0.05)
                children = subprocess.run(["pgrep", "-P", str(started.pid)], capture_output=True, text=True, check=True)
                os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
            assert started.wait(timeout=120) == 0, output.read_text()
        finally:
            started.terminate()
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["training"]["steps"] == 6


def test_one_process_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with joined("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
        assert not dist.is_initialized()
        assert ranks.gather("x") == ["x"]
    assert not was_restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert was_restarted()


def test_the_chosen_gpu_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation on "cuda" would move the network to another one."""
    current: list[torch.device] = []

    @contextlib.contextmanager
    def make_current(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", make_current)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with joined("cuda:1") as ranks:
        assert current == [ranks.device] == [torch.device("cuda:1")]
    assert not current


@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda:99", "finds no CUDA GPU|there are"), ("tpu", "expected auto, cpu"), ("meta", "expected auto, cpu")],
)
def test_missing_devices_are_named(device: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message), joined(device):
        pass


def test_missing_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for name in ("RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TrainingError, match="has WORLD_SIZE=2, but not RANK, MASTER_PORT; start"), joined("cpu"):
        pass


def test_a_broken_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(TrainingError, match="WORLD_SIZE='two' is not a number"), joined("cpu"):
        pass
