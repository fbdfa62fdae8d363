"""Trainings from beginning to end, and interrupted ones."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import segnets
from segnets.data import open_data
from segnets.errors import OutputError, TrainingError
from segnets.resize_rules import parse_resize
from segnets.training import Trainer, TrainingConfig, train
from segnets.training.checkpoints import read_checkpoint, write_checkpoint
from segnets.training.progress import SlowWork, StepReport
from tests.data.common import write_folder
from tests.tiers import full_but
from tests.training.runs import check_same_runs, config_of, folder, rows_of, run_training, toys, trainer_of

__all__ = ["folder", "toys"]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        register = toys.__wrapped__(patch)  # type: ignore[attr-defined]  # a fixture of another scope
        next(register)
        run_training(config_of(folder, out))
    return out


def test_a_training_writes_its_files(whole: Path, folder: Path) -> None:
    names = {"config.toml", "last.ckpt", "last.safetensors", "best.safetensors", "log.csv", "report.html"}
    assert {path.name for path in whole.iterdir()} == names
    rows = rows_of(whole)
    assert [row["step"] for row in rows] == ["1", "2", "3", "3", "4", "5", "6", "6"]
    assert [row["mean_iou"] != "" for row in rows] == [False, False, False, True, False, False, False, True]
    model: Any = segnets.load(whole / "last.safetensors")
    assert model.card.classes == ("sky", "road", "car")
    assert model.card.preprocessing == segnets.Preprocessing(**parse_resize(config_of(folder, whole).resize))
    provenance = model.card.provenance
    assert (provenance["data"], provenance["licence"]) == (folder.name, "CC0")
    assert (provenance["split"], provenance["recipe"], provenance["seed"], provenance["epochs"]) == (
        "train",
        "light",
        0,
        2.0,
    )
    assert f"{provenance['scores']['mean_iou']}" == rows[-1]["mean_iou"]
    assert TrainingConfig.from_toml(whole / "config.toml") == config_of(folder, whole)
    state = torch.load(whole / "last.ckpt", weights_only=True)
    average = state["training"]["average"]["model"]
    assert all(torch.equal(value, average[name]) for name, value in model.state_dict().items())


class _Killed(BaseException):
    """End of a process, as far as the files are concerned."""


@pytest.mark.parametrize("step", [1, 4])
def test_an_interrupted_training_goes_on_exactly(step: int, whole: Path, folder: Path, tmp_path: Path) -> None:
    """In the middle of an epoch, with and without a checkpoint."""
    config = config_of(folder, tmp_path / "run")

    def end(report: StepReport) -> None:
        if report.step == step:
            raise _Killed

    with pytest.raises(_Killed):
        run_training(config, on_step=end)
    torch.rand(3)  # the state of the caller's generator does not matter
    run_training(config, resume=True)
    check_same_runs(whole, tmp_path / "run")


_MOMENTS = [(number, number % 3) for number in range(20)]


@pytest.mark.parametrize(("seed", "workers"), full_but([], _MOMENTS))
def test_a_killed_training_goes_on_exactly(seed: int, workers: int, whole: Path, folder: Path, tmp_path: Path) -> None:
    """SIGKILL at any moment, also while files are written."""
    config, moment = config_of(folder, tmp_path / "run", workers=workers), random.Random(seed)
    context = multiprocessing.get_context("fork")
    started = time.monotonic()
    run_training(config_of(folder, tmp_path / "timed", workers=workers))
    duration = time.monotonic() - started
    for _ in range(3):
        process = context.Process(target=_in_group, args=(config,))
        process.start()
        process.join(moment.uniform(0, duration))
        assert process.pid is not None
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # before it has made the group
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.join()
    run_training(config, resume=True)
    check_same_runs(whole, tmp_path / "run")


def _in_group(config: TrainingConfig) -> None:
    os.setpgid(0, 0)
    run_training(config, resume=True)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C interrupt: in the background of a script, a process inherits that it is ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves(number: signal.Signals, whole: Path, folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, tmp_path / "run", workers=1 if number is signal.SIGINT else 0, checkpoint_every=0)

    def stop(report: StepReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match=r"after step 2 of 6 and saved .*last\.ckpt; continue with --resume"):
        run_training(config, on_step=stop)
    assert signal.getsignal(number) is handler
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["training"]["steps"] == 2
    run_training(config_of(folder, tmp_path / "run", workers=0, checkpoint_every=2), resume=True)
    check_same_runs_but_options(whole, tmp_path / "run")


def check_same_runs_but_options(one: Path, other: Path) -> None:
    assert rows_of(one) == rows_of(other)
    assert (one / "last.safetensors").read_bytes() == (other / "last.safetensors").read_bytes()


def test_random_numbers_of_the_caller_are_left_alone(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run_training(config_of(folder, tmp_path / "run", epochs=1))
    assert torch.equal(torch.rand(2), expected)


def test_a_finished_training_says_so(whole: Path, folder: Path) -> None:
    told: list[str] = []
    before = (whole / "last.ckpt").stat().st_mtime_ns
    result = run_training(config_of(folder, whole), resume=True, tell=told.append)
    assert result.steps == 6
    assert str(result).endswith("at best")
    assert told == [f"{whole}: this run is finished"]
    assert (whole / "last.ckpt").stat().st_mtime_ns == before


def test_a_training_is_not_overwritten(whole: Path, folder: Path) -> None:
    with pytest.raises(OutputError, match="already holds a run; continue it with --resume, or choose another --out"):
        run_training(config_of(folder, whole))


@pytest.mark.parametrize("resume", [False, True])
def test_two_processes_don_t_train_in_one_folder(resume: bool, folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()

    def train_slowly() -> None:
        def wait(_report: StepReport) -> None:
            begun.set()
            end.wait(60)

        run_training(config_of(folder, tmp_path / "run", epochs=1, workers=1), on_step=wait)

    process = context.Process(target=train_slowly)
    process.start()
    try:
        assert begun.wait(60)
        with pytest.raises(OutputError, match="another process is training in this folder"):
            run_training(config_of(folder, tmp_path / "run", epochs=1), resume=resume)
    finally:
        end.set()
        process.join()
    assert process.exitcode == 0
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_training_without_its_checkpoint_is_not_overwritten(
    resume: bool, whole: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").unlink()
    with pytest.raises(OutputError, match=r"holds a run without its last\.ckpt; restore that file"):
        run_training(config_of(folder, tmp_path / "run"), resume=resume)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()


def test_resuming_nothing_starts_and_says_so(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    train(config_of(folder, tmp_path / "run", epochs=1), resume=True, tell=told.append)
    assert f"{tmp_path / 'run'}: no checkpoint to resume; training starts from the beginning" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.5}, "was made with lr=0.001, but now it is 0.5"),
        ({"model": "lraspp_toy"}, "was made with model='fcn_toy', but now it is 'lraspp_toy'"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    options: dict[str, Any], message: str, whole: Path, folder: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        run_training(config_of(folder, whole, **options), resume=True)


@pytest.mark.parametrize(("split", "train", "val"), [("train", 6, 2), ("val", 7, 3), ("val", 7, 0)])
def test_a_checkpoint_of_other_data_is_refused(split: str, train: int, val: int, whole: Path, tmp_path: Path) -> None:
    """Scores on other validation images can't be compared with the best one so far."""
    other = write_folder(tmp_path, train=train, val=val)
    with pytest.raises(TrainingError, match=f"the images of the split '{split}' of .* have changed"):
        run_training(config_of(other, whole), resume=True)


@pytest.mark.parametrize(("image", "step"), [(1, 3), (3, 6)])
def test_a_signal_during_a_validation_saves(
    image: int, step: int, whole: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation is repeated when the run is resumed, also the last one."""
    from segnets.inference import Predictor

    predict, calls = Predictor.predict, []

    def signalled(self: Predictor, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == image:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(self, *arguments)

    monkeypatch.setattr(Predictor, "predict", signalled)
    config = config_of(folder, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step} of 6"):
        run_training(config)
    assert len(calls) == image
    run_training(config, resume=True)
    check_same_runs(whole, tmp_path / "run")


def test_weights_have_no_scores_of_another_epoch(folder: Path, tmp_path: Path) -> None:
    def end(report: StepReport) -> None:
        if report.step == 10:
            raise _Killed

    config = config_of(folder, tmp_path / "run", epochs=4, validate_every=2)
    with pytest.raises(_Killed):
        run_training(config, on_step=end)
    models: list[Any] = [segnets.load(tmp_path / "run" / f"{name}.safetensors") for name in ("best", "last")]
    best, last = (model.card.provenance for model in models)
    assert (best["epochs"], last["epochs"]) == (2.0, 3.0)
    assert best["scores"]["mean_iou"] is not None
    assert last["scores"] == {}


def test_without_a_validation_split(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", val=0)
    told: list[str] = []
    result = run_training(config_of(data, tmp_path / "run", epochs=1), tell=told.append)
    assert result.best is None
    assert (tmp_path / "run" / "last.safetensors").exists()
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert any("has no split 'val'" in message for message in told)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "after step 2; no validation so far" in report
    assert "<h2>Loss</h2>" in report
    assert "<h2>Validation</h2>" not in report


def test_the_first_batch_after_many_steps_comes_at_once(folder: Path, tmp_path: Path) -> None:
    """The position in the data is computed, not replayed."""
    trainer = trainer_of(config_of(folder, tmp_path / "run", epochs=100_000))
    trainer._parts.build()
    trainer._parts.step.steps = 100_001
    started = time.monotonic()
    example = next(trainer._parts.batches())
    assert time.monotonic() - started < 0.5
    assert len(example.image) == 2
    assert open_data(folder).classes == ("sky", "road", "car")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("training"), "'training'"),
        (lambda state: state.pop("config"), "'config'"),
        (lambda state: state["training"].update(steps=10**9), "1000000000 steps of 6"),
        (lambda state: state["training"].update(steps="2"), "'2' steps of 6"),
        (lambda state: state["training"]["model"].popitem(), "Missing key"),
        (lambda state: state["training"]["optimizer"].clear(), "param_groups"),
        (lambda state: state.update(class_weights=[1.0]), "1 class weights for 3 classes"),
        (lambda state: state.update(progress={"a": 1}), "unexpected keyword argument 'a'"),
        (lambda state: state.update(network={}), "'options'"),
        (lambda state: state.update(random=[]), "index out of range"),
    ],
)
def test_a_tampered_checkpoint_is_refused(change: Any, message: str, whole: Path, folder: Path, tmp_path: Path) -> None:
    state = read_checkpoint(whole / "last.ckpt")
    state["training"]["steps"] = 2
    change(state)
    (tmp_path / "run").mkdir()
    write_checkpoint(tmp_path / "run" / "last.ckpt", state)
    with pytest.raises(TrainingError, match=rf"last.ckpt: does not contain the state of this run \(.*{message}") as e:
        run_training(config_of(folder, tmp_path / "run"), resume=True)
    assert "\n" not in str(e.value)


def test_slow_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told: list[str] = []
    progress = SlowWork(told.append, "images decoded into memory")
    for now in (104.0, 105.0, 130.0, 136.0):  # read by the clock above
        progress(int(now) * 10, 2000)
    assert told == ["1,050 of 2,000 images decoded into memory", "1,360 of 2,000 images decoded into memory"]


def test_a_large_set_is_decoded_with_messages(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowWork, "_FIRST", 0.0)
    monkeypatch.setattr(SlowWork, "_NEXT", 0.0)
    told: list[str] = []
    trainer_of(config_of(folder, tmp_path / "run", class_weights="enet"), tell=told.append)._parts.build()
    assert "7 of 7 images decoded into memory" in told
    assert "6 of 7 masks counted for class_weights" in told


def test_masks_of_another_meaning_are_refused(folder: Path, tmp_path: Path) -> None:
    """Checkpoints from before this was recorded are resumed."""
    config = config_of(folder, tmp_path / "run", epochs=1)
    run_training(config)
    data, told = replace(open_data(config.data), ignore=(2,)), list[str]()
    with pytest.raises(TrainingError, match="a different description of the masks"):
        Trainer(config, data, tell=told.append).run(resume=True)
    state = read_checkpoint(tmp_path / "run" / "last.ckpt")
    del state["masks"]
    write_checkpoint(tmp_path / "run" / "last.ckpt", state)
    Trainer(config, data, tell=told.append).run(resume=True)
    assert "is finished" in told[-1]


@pytest.mark.usefixtures("ctrl_c")
def test_a_report_without_a_logged_step(tmp_path: Path) -> None:
    def stop(_report: StepReport) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    data = write_folder(tmp_path / "data", val=0)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 1 of 2"):
        run_training(config_of(data, tmp_path / "run", epochs=1, log_every=10), on_step=stop)
    assert "no validation so far" in (tmp_path / "run" / "report.html").read_text()


def test_short_epochs_have_a_row_each(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", val=0)
    run_training(config_of(data, tmp_path / "run", epochs=2, log_every=3))
    assert [row["step"] for row in rows_of(tmp_path / "run") if row["loss"]] == ["2", "3", "4"]
