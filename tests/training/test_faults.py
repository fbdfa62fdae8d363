"""Trainings that go wrong: bad data, full disks, values that are not finite."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

import segnets
from segnets.card import Decoding
from segnets.errors import DataError, OutputError, SegnetsError, TrainingError
from segnets.training.checkpoints import check_room, read_checkpoint
from segnets.training.losses import Objective, plain
from segnets.training.progress import StepReport
from segnets.training.records import COLUMNS, CsvLog
from tests.data.common import make_data_set, write_folder
from tests.training.runs import config_of, folder, rows_of, run_training, toys, trainer_of

__all__ = ["folder", "toys"]


def _diverging(after: int) -> Objective:
    calls = [0]

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        value = nn.functional.cross_entropy(logits, target, ignore_index=255)
        return value * float("nan") if calls[0] > after else value

    return Objective([(plain(loss), 1.0)])


def test_a_loss_that_is_not_finite_names_the_images(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, tmp_path / "run")
    with pytest.raises(TrainingError) as caught:
        run_training(config, loss=_diverging(2))
    message = str(caught.value)
    assert message.startswith("the loss is nan at step 3 of 6; the checkpoint of step 2 is kept.")
    assert message.count(f"{folder / 'train' / 'images'}") == 2
    state = read_checkpoint(tmp_path / "run" / "last.ckpt")["training"]
    assert state["steps"] == 2
    assert all(value.isfinite().all() for value in state["model"].values())


def test_weights_that_are_not_finite_are_not_saved(folder: Path, tmp_path: Path) -> None:
    """The loss is finite here, and only its gradient is not."""

    def loss(logits: Tensor, _target: Tensor) -> Tensor:
        return (logits * 0).sum().sqrt()

    config = config_of(folder, tmp_path / "run", checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"a weight .* not finite after step 1; there is no checkpoint"):
        run_training(config, loss=Objective([(plain(loss), 1.0)]))
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_an_unreadable_image_in_the_middle_saves(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", train=4)
    config = config_of(data, tmp_path / "run", checkpoint_every=0, epochs=1, class_weights="none")
    trainer = trainer_of(config)
    order = [index for batch in _positions(trainer, 2) for _, index in batch]
    broken = data / "train" / "images" / f"{order[2]:03}.png"
    content = broken.read_bytes()
    trainer._parts.samples.keep_in_memory = lambda *_, **_options: False  # type: ignore[method-assign]  # as for a large set
    broken.write_bytes(content[:40])
    with pytest.raises(DataError, match=rf"{broken.name}.*The run was saved after step 1; continue with --resume"):
        trainer.run()
    broken.write_bytes(content)
    assert run_training(config, resume=True).steps == 2


def _positions(trainer: Any, count: int) -> list[list[tuple[int, int]]]:
    batches = iter(trainer._parts._order(0))
    return [next(batches) for _ in range(count)]


def test_a_full_disk_keeps_the_last_checkpoint(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    config = config_of(folder, tmp_path / "run")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(report: StepReport) -> None:
        if report.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    try:
        with pytest.raises(OutputError, match="would exceed the size limit"):
            run_training(config, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["training"]["steps"] == 2
    assert not list((tmp_path / "run").glob(".segnets-*"))


def test_too_little_room_is_found_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs_result((4096, 4096, 10, 10, 10, 10, 10, 10, 0, 255))
    monkeypatch.setattr("segnets.training.checkpoints.os.statvfs", lambda _path: room)
    with pytest.raises(OutputError, match="0 MB are free, and checkpoints and weights take"):
        run_training(config_of(folder, tmp_path / "run"))


def test_files_that_exist_need_room_for_one_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs_result((1, 1, 10, 10, 10, 10, 10, 10, 0, 255))
    monkeypatch.setattr("segnets.training.checkpoints.os.statvfs", lambda _path: room)
    sizes = {tmp_path / "last.ckpt": 8, tmp_path / "last.safetensors": 2}
    with pytest.raises(OutputError, match="0 MB are free"):
        check_room(tmp_path, sizes)
    (tmp_path / "last.ckpt").touch()
    check_room(tmp_path, sizes)
    with pytest.raises(OutputError, match="0 MB are free"):
        check_room(tmp_path, sizes | {tmp_path / "best.safetensors": 2})


def test_too_few_images_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="7 samples don't fill a batch of 8"):
        trainer_of(config_of(folder, tmp_path / "run", batch=8))


def test_a_batch_of_one_needs_no_batch_norm_of_one_value(folder: Path, tmp_path: Path) -> None:
    assert run_training(config_of(folder, tmp_path / "run", batch=1, epochs=1)).steps == 7


def test_ignored_pixels_only(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    for path in (data / "train" / "masks").iterdir():
        Image.fromarray(np.full((32, 40), 255, np.uint8)).save(path)
    run_training(config_of(data, tmp_path / "run", epochs=1, class_weights="none"))
    assert {row["loss"] for row in rows_of(tmp_path / "run") if row["loss"]} == {"0.0"}


def test_a_model_of_the_caller_needs_a_card(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the model has no card"):
        run_training(config_of(folder, tmp_path / "run"), model=segnets.create_model("lraspp_toy", num_classes=3))


def test_one_class_is_refused(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", description='classes = ["car"]\nignore = [0, 1]\nids = [2]\n')
    with pytest.raises(TrainingError, match=r"has only one class, 'car', .* Add the background .* first class\. With"):
        trainer_of(config_of(data, tmp_path / "run"))


@pytest.mark.parametrize(("decoding", "outputs"), [("argmax", 2), ("threshold", 1), ("multilabel", 2)])
def test_a_teacher_of_another_decoding_is_refused(decoding: str, outputs: int, tmp_path: Path) -> None:
    """A softmax over one channel is 1 everywhere."""
    data, teacher = tmp_path / "data", tmp_path / "teacher.safetensors"
    make_data_set(data)
    config = config_of(data, tmp_path / "run", epochs=1, teacher=str(teacher))
    segnets.save(
        segnets.create_model("fcn_toy", num_classes=outputs),
        teacher,
        classes=("dark", "light"),
        preprocessing=segnets.Preprocessing(),
        decoding=Decoding(decoding),
    )
    for other in ("argmax", "threshold", "multilabel"):
        if other == decoding:
            continue
        with pytest.raises(TrainingError, match=f"its decoding is {decoding}, but this network's is {other}"):
            run_training(config.changed(decoding=other))
    told: list[str] = []
    run_training(config.changed(decoding=decoding, resize="x2"), tell=told.append)
    assert any("another image size (short side resized to 520) than these crops (scaled by 2)" in each for each in told)


def test_data_without_class_names_is_refused(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", description="")
    with pytest.raises(SegnetsError, match="has no class names"):
        trainer_of(config_of(data, tmp_path / "run"))


def test_an_error_of_the_report_does_not_hide_another(folder: Path, tmp_path: Path) -> None:
    def end(_report: StepReport) -> None:
        raise DataError("the first error")

    trainer = trainer_of(config_of(folder, tmp_path / "run", val_split=""), on_step=end)
    trainer.folder.report = tmp_path / "missing" / "report.html"
    with pytest.raises(DataError, match="the first error"):
        trainer.run()


def test_a_batch_norm_of_one_value_is_told(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", train=1)
    with pytest.raises(TrainingError, match=r"a batch of 1 crops of 8x8 .* raise --batch, or .* norm_eval=true"):
        run_training(config_of(data, tmp_path / "run", model="lraspp_mobilenet_v3_small", batch=1, crop=8))


def test_a_killed_worker_is_told(folder: Path, tmp_path: Path) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 3:
            (worker, *_) = multiprocessing.active_children()
            os.kill(worker.pid or 0, signal.SIGKILL)
            time.sleep(5)  # until the signal of its end arrives

    with pytest.raises(
        TrainingError, match=r"was killed, .* the checkpoint of step 2 is kept\. Continue with --resume"
    ):
        run_training(config_of(folder, tmp_path / "run", workers=1, epochs=9), on_step=kill)
    assert not multiprocessing.active_children()


def test_a_log_that_can_t_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    def replace(report: StepReport) -> None:
        (tmp_path / "run" / "log.csv").unlink()
        (tmp_path / "run" / "log.csv").mkdir()

    with pytest.raises(OutputError, match=r"log\.csv': can't be written: .*Is a directory"):
        run_training(config_of(folder, tmp_path / "run"), on_step=replace)


@pytest.mark.parametrize(
    ("log", "steps"),
    [
        ("1,1,2.5,,,,,,\n2,1,2.0,,,,,,\n3,1,", ["1", "2"]),
        ("1,1,2.5,,,,,,\n", ["1"]),
        ("1,1\n", None),
        ("x\n", None),
        ("1,1,2.5,,,,x,,\n", None),
        ("1,1,2.5,,,,nan,,\n", None),
        (f"{'9' * 5000},1,2.5,,,,1,,\n", None),
    ],
    ids=["cut", "whole", "short row", "no step", "no seconds", "endless seconds", "endless step"],
)
def test_a_damaged_log_is_refused(log: str, steps: list[str] | None, tmp_path: Path) -> None:
    """Not so its last row, if it was cut off."""
    path = tmp_path / "log.csv"
    path.write_text(",".join(COLUMNS) + "\n" + log)
    if steps is None:
        with pytest.raises(TrainingError, match=r"log\.csv: can't be read as the log of this run"):
            CsvLog(path, 2)
        return
    CsvLog(path, 2)
    assert [row["step"] for row in rows_of(tmp_path)] == steps


def test_the_seconds_continue_after_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(",".join(COLUMNS) + "\n1,1,2.5,,,,100.5,,\n2,1,2.5,,,,200.5,,\n")
    CsvLog(path, 1).write({"step": 2})
    seconds = [float(line.split(",")[COLUMNS.index("seconds")]) for line in path.read_text().splitlines()[1:]]
    assert seconds == [100.5, pytest.approx(100.5, abs=50)]


def test_a_validation_without_valid_pixels(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    for path in (data / "val" / "masks").iterdir():
        Image.fromarray(np.full((32, 40), 255, np.uint8)).save(path)
    told: list[str] = []
    result = run_training(config_of(data, tmp_path / "run", epochs=1), tell=told.append)
    assert told[-1] == "epoch 1 of 1: no scores, as every pixel is ignored"
    assert result.scores["mean_iou"] is None
    assert segnets.load(tmp_path / "run" / "last.safetensors").card.provenance["scores"]["mean_iou"] is None  # type: ignore[union-attr,index]
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert (tmp_path / "run" / "report.html").exists()
    assert str(result) == f"{tmp_path}/run: 1 epoch, 2 steps"
