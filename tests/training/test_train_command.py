"""`segnets train`: arguments, messages, exit status, files."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from segnets.cli import main
from segnets.commands._training_progress import TrainingProgress
from segnets.training.checkpoints import read_checkpoint
from segnets.training.progress import StepReport
from tests.data.common import write_folder
from tests.training.runs import folder, rows_of, toys

__all__ = ["folder", "toys"]

_SMALL = ["--model", "lraspp_toy", "--crop", "24", "--batch", "2", "--epochs", "1", "--set", "log_every=1"]


def test_a_training(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "a run"
    assert main(["train", str(folder), *_SMALL, "--out", str(run), "--lr", "0.01"]) == 0
    out, err = capsys.readouterr()
    image = sorted((folder / "val" / "images").iterdir())[0]
    lines = out.splitlines()
    assert "segnets: recipe light: 1 epoch of 3 steps, each on 2 images\n" in err
    assert lines[0].startswith(f"{run}: 1 epoch, 3 steps; mean IoU 0.")
    assert lines[1:] == [
        "next:",
        f"  segnets evaluate --model '{run}/best.safetensors' {folder}",
        f"  segnets predict --model '{run}/best.safetensors' {image} --out '{run}/predicted'",
        f"  segnets export '{run}/best.safetensors' '{run}/model.ts'",
    ]
    assert "segnets: epoch 1 of 1: mean IoU 0." in err
    assert main(["evaluate", "--model", str(run / "best.safetensors"), str(folder), "--json"]) == 0
    assert f'"mean_iou": {rows_of(run)[-1]["mean_iou"]}' in capsys.readouterr().out


def test_the_next_command_knows_split_and_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = write_folder(tmp_path / "data", train=2, description=""), tmp_path / "run"
    (data / "val").rename(data / "dev")
    options = ["--classes", "sky,the road", "--ignore", "2", "--set", "val_split=dev"]
    assert main(["train", str(data), *_SMALL, *options, "--out", str(run)]) == 0
    command = capsys.readouterr().out.splitlines()[2]
    assert command.endswith(f" {data} --split dev --classes 'sky,the road' --ignore 2")
    assert main(shlex.split(command)[1:]) == 0
    shutil.rmtree(data / "dev")
    assert main(["train", str(data), *_SMALL, *options, "--out", f"{run}2"]) == 0
    assert "evaluate" not in capsys.readouterr().out.split("next:")[1]


def test_a_training_on_data_without_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "data", val=0)
    for kind in ("images", "masks"):
        (data / "train" / kind).rename(data / kind)
    (data / "train").rmdir()
    assert main(["train", str(data), *_SMALL, "--set", "train_split=all", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["predict", "export"]
    assert f"{data}/images/000.png" in lines[2]


def test_ctrl_c_names_the_command_that_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    arguments = ["train", str(folder), *_SMALL, "--out", str(run)]

    def stop(_progress: TrainingProgress, report: StepReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingProgress, "step", stop)
    monkeypatch.setattr("sys.argv", ["segnets", *arguments])
    assert main(arguments) == 130
    err = capsys.readouterr().err
    assert f"segnets: stopped after step 2 of 3 and saved {run}/last.ckpt; continue with --resume\n" in err
    assert err.endswith(f"  segnets train {folder} {' '.join(_SMALL)} --out {run} --resume\n")
    assert main(["train", str(folder), "--out", str(run), "--resume"]) == 0
    assert read_checkpoint(run / "last.ckpt")["training"]["steps"] == 3
    assert main(["train", str(folder), "--out", str(run), "--resume"]) == 0
    assert "this run is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LOCAL_WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "1"}, "segnets train DATA --resume"),
        (
            {"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"},
            "torchrun --nproc-per-node 2 -m segnets train DATA --resume",
        ),
        ({"LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "3"}, "start the same torchrun command with --resume"),
    ],
)
def test_several_processes_are_continued_by_torchrun(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segnets.commands.train import _resuming

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["segnets", "train", "DATA"])
    assert _resuming().startswith(expected)


def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(folder), *_SMALL, "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["network", "recipe", "loss", "memory", "speed", "time", "disk"]
    assert not (tmp_path / "run").exists()


def test_the_file_of_a_run_repeats_it(folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", str(folder), *_SMALL, "--out", str(one), "--seed", "5"]) == 0
    assert main(["train", str(folder), "--config", str(one / "config.toml"), "--out", str(two)]) == 0
    assert rows_of(one) == rows_of(two)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no network: choose one with --model"),
        (["--model", "lraspp_toi"], "no model 'lraspp_toi'"),
        ([*_SMALL, "--set", "learning_rate=1"], "learning_rate"),
        ([*_SMALL, "--set", "lr=1", "--lr", "2"], "--lr and --set lr=... were both given; choose one"),
        ([*_SMALL, "--device", "tpu"], "device 'tpu': expected auto, cpu"),
        ([*_SMALL, "--batch", "100"], "7 samples don't fill a batch of 100"),
        ([*_SMALL, "--classes", "a,b"], "`segnets check-data"),
    ],
)
def test_bad_input_gives_one_line(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(folder), "--out", str(tmp_path / "run"), *arguments]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if "random weights" not in line]
    assert message in err[-1]
    assert len(err) == 1
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_bad_data_is_found_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder(tmp_path / "data")
    next((data / "train" / "masks").iterdir()).unlink()
    assert main(["train", str(data), *_SMALL, "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert f"`segnets check-data {data}` lists all" in err
    assert ".;" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("waiting", "said"), [(0.04, False), (0.31, True)])
def test_long_waiting_for_data_is_told(
    waiting: float, said: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segnets.commands._training_progress._LOG_SECONDS", 0)
    with TrainingProgress() as progress:
        progress.step(StepReport(1, 10, 1, 1, 0.5, 4, waiting))
    assert ("31 % of the time waiting for data (--workers)" in capsys.readouterr().err) == said


def test_other_output_begins_below_the_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with TrainingProgress() as progress:
        monkeypatch.setattr(progress, "_terminal", True)
        progress.step(StepReport(1, 10, 1, 1, 0.5, 4, 0.31))
        progress.close()
        shown = capsys.readouterr().err
        assert "31 % waiting for data" in shown
        assert shown.endswith("\n")
    assert capsys.readouterr().err == ""


def test_messages_stay_on_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress() as progress:
        progress.tell("a\nsegnets: b\x1b[31m: is missing")
    assert capsys.readouterr().err == "segnets: a\\nsegnets: b\\x1b[31m: is missing\n"
