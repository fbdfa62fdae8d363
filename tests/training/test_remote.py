"""Trainings on shards at a server."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from segnets.cli import main
from segnets.data.loader import TrainSet
from segnets.errors import DataError
from segnets.training.progress import StepReport
from tests.data.shards import Remote, remote
from tests.training.runs import check_same_runs, config_of, run_training, toys
from tests.weights_tools.server import plain

__all__ = ["remote", "toys"]


@pytest.fixture(autouse=True)
def outgrown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the data as too large for the memory."""
    monkeypatch.setattr(TrainSet, "keep_in_memory", lambda *_, **_options: False)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # the server is a thread
def test_a_stopped_training_equals_one_on_local_shards(remote: Remote, tmp_path: Path) -> None:
    addresses = (remote.remote / "dataset.toml").read_text()
    remote.describe(train="../local/train-{000000..000001}.tar", val="../local/val-000000.tar")
    run_training(config_of(remote.remote, tmp_path / "one"))
    (remote.remote / "dataset.toml").write_text(addresses)
    config = config_of(remote.remote, tmp_path / "other", workers=2)

    def end(report: StepReport) -> None:
        if report.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run_training(config, on_step=end)
    run_training(config, resume=True)
    check_same_runs(tmp_path / "one", tmp_path / "other")


def test_a_server_that_fails_for_long_ends_the_run_after_a_checkpoint(remote: Remote, tmp_path: Path) -> None:
    config = config_of(remote.remote, tmp_path / "run", checkpoint_every=0)

    def fail(report: StepReport) -> None:
        if report.step == 2:
            remote.first(*[plain(b"", 503, Content_Length=0)] * 5)

    message = r"train-00000\d\.tar: the server reports an error \(503.*5 times.*saved after step 2; continue with --res"
    with pytest.raises(DataError, match=message):
        run_training(config, on_step=fail)
    assert run_training(config, resume=True).steps == 6


def test_the_command_tells_what_it_checked(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("segnets.data.check.MOST_REMOTE", 3)
    monkeypatch.setattr("segnets.training.assembly._MOST_REMOTE_MASKS", 5)
    options = ["--model", "fcn_toy", "--crop", "24", "--epochs", "1", "--batch", "2", "--set", "class_weights=enet"]
    assert main(["train", str(remote.remote), "--out", str(tmp_path / "run"), *options]) == 0
    output = capsys.readouterr()
    assert f"evenly spread: 3 of 7 (train). `segnets check-data {remote.remote} --all` reads all" in output.err
    assert "class_weights: counted in 5 of 7 masks, evenly spread" in output.err
    assert "predict --model" in output.out
    assert " photo.jpg --out" in output.out
