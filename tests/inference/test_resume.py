"""Jobs that continue after an interruption, and that share a folder."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segnets
from segnets.inference.journal import Journal
from tests.inference.common import image_folder, outputs_in, predict, random_image


def test_resume_does_what_is_missing_and_nothing_else(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, save = tmp_path / "out", ("--save", "mask,csv")
    assert predict(weights, photos, "--out", out, *save) == 0
    complete = outputs_in(out)
    (out / "1.png").unlink()
    (out / "3.png").write_bytes(b"cut off")
    (out / "areas.csv").unlink()
    untouched = (out / "2.png").stat().st_mtime_ns
    capsys.readouterr()
    assert predict(weights, photos, "--out", out, *save, "--resume") == 0
    assert capsys.readouterr().out.startswith("5 images, 3 already done, 0 failed")
    assert outputs_in(out) == complete
    assert (out / "2.png").stat().st_mtime_ns == untouched


def test_resume_sees_an_image_that_changed(weights: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(weights, photos, "--out", out, "--save", "mask") == 0
    before = outputs_in(out)
    Image.fromarray(random_image(30, 30, seed=99)).save(photos / "1.png")
    assert predict(weights, photos, "--out", out, "--save", "mask", "--resume") == 0
    after = outputs_in(out)
    assert [name for name in before if before[name] != after[name]] == ["1.png"]
    (photos / "1.png").write_bytes(b"no image any more")
    assert predict(weights, photos, "--out", out, "--save", "mask", "--resume") == 1
    assert "1.png" not in outputs_in(out)  # an old mask would be taken for the image's


def test_resume_refuses_another_model_and_other_options(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert predict(weights, photos, "--out", out) == 0
    before = outputs_in(out)
    other = tmp_path / "other.safetensors"
    model: Any = segnets.load(weights)
    model.classifier.high_classifier.bias.data += 1
    segnets.save(model, other)
    capsys.readouterr()
    assert predict(other, photos, "--out", out, "--resume") == 1
    assert "was made with different settings (models was" in capsys.readouterr().err
    assert predict(weights, photos, "--out", out, "--resume", "--resize", "32") == 1
    assert "resize was null" in capsys.readouterr().err
    with monkeypatch.context() as patched:  # another precision or device
        patched.setattr("segnets.inference.networks.descriptions", lambda _: ["model, bfloat16 on cpu"])
        assert predict(weights, photos, "--out", out, "--resume") == 1
    assert 'networks was ["model, float32 on cpu"]' in capsys.readouterr().err
    assert outputs_in(out) == before


def test_shards_share_a_folder_and_divide_the_work(weights: Path, photos: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert predict(weights, photos, "--out", whole, "--save", "mask") == 0
    for number in (1, 2, 3):
        assert predict(weights, photos, "--out", parts, "--save", "mask", "--shard", f"{number}/3") == 0
    assert outputs_in(parts) == outputs_in(whole)
    assert predict(weights, photos, "--out", parts, "--save", "mask", "--shard", "2/3") == 1
    assert predict(weights, photos, "--out", parts, "--save", "mask", "--shard", "2/3", "--resume") == 0


def test_shards_write_tables_of_their_own(weights: Path, photos: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        assert predict(weights, photos, "--out", tmp_path / "out", "--save", "csv", "--shard", f"{number}/2") == 0
    names = sorted(outputs_in(tmp_path / "out"))
    assert names == ["areas.1-of-2.csv", "areas.2-of-2.csv"]
    rows = [row for name in names for row in csv.DictReader(io.StringIO((tmp_path / "out" / name).read_text()))]
    assert {Path(row["image"]).name for row in rows} == {f"{n}.png" for n in range(5)}


def test_resume_keeps_results_of_images_that_are_gone(weights: Path, photos: Path, tmp_path: Path) -> None:
    images, out = sorted(photos.iterdir()), tmp_path / "out"
    assert predict(weights, *images, "--out", out) == 0
    before = outputs_in(out)
    images[0].unlink()
    assert predict(weights, *images, "--out", out, "--resume") == 0
    assert outputs_in(out) == before


def test_resume_does_not_replace_results_of_other_images(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(weights, photos, "--out", out, "--save", "mask") == 0
    before = outputs_in(out)
    others = image_folder(tmp_path / "others", 1)
    assert predict(weights, others, "--out", out, "--save", "mask", "--resume") == 1
    assert "others/0.png would replace it" in capsys.readouterr().err
    assert outputs_in(out) == before


def test_a_second_process_leaves_the_record_of_the_first(weights: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(weights, photos, "--out", out, "--save", "mask") == 0
    journal = out / ".segnets" / "journal.jsonl"
    before = journal.read_bytes()
    first = Journal(out, {})
    first.lock()
    assert predict(weights, photos, "--out", out, "--save", "mask", "--force") == 1
    first.close()
    assert journal.read_bytes() == before


def test_resume_removes_what_a_killed_process_left(weights: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(weights, photos, "--out", out, "--save", "mask") == 0
    left = out / ".segnets-0123.tmp"
    left.touch()
    assert predict(weights, photos, "--out", out, "--save", "mask", "--resume") == 0
    assert not left.exists()


def _interrupt(weights: Path, photos: Path, out: Path, how: signal.Signals, delay: float, *arguments: str) -> None:
    """Run the command in a process of its own, and send it a signal some time after its next output."""
    command = [sys.executable, "-m", "segnets", "predict", "--model", str(weights), str(photos), "--out", str(out)]
    before = sum(1 for _ in out.glob("*.png"))
    with subprocess.Popen(
        [*command, "--deterministic", "--save", "mask,csv", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # In the background of a script, a process inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 60
        while sum(1 for _ in out.glob("*.png")) == before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(how)
        _, error = process.communicate()
    assert "Traceback" not in error
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume continues" in error


def _interrupt_and_resume(
    weights: Path, photos: Path, tmp_path: Path, how: signal.Signals, delays: Sequence[float]
) -> None:
    save, whole, out = ("--save", "mask,csv"), tmp_path / "whole", tmp_path / "out"
    assert predict(weights, photos, "--out", whole, *save) == 0
    for number, delay in enumerate(delays):
        _interrupt(weights, photos, out, how, delay, *(["--resume"] if number else []))
    assert 0 < sum(1 for _ in out.glob("*.png")) < sum(1 for _ in photos.iterdir())
    assert predict(weights, photos, "--out", out, *save, "--resume") == 0
    assert outputs_in(out) == outputs_in(whole)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_completed(weights: Path, tmp_path: Path, how: signal.Signals) -> None:
    _interrupt_and_resume(weights, image_folder(tmp_path / "photos", 100), tmp_path, how, [0.0])


@pytest.mark.full
def test_a_run_killed_twenty_times_is_completed(weights: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    photos = image_folder(tmp_path / "photos", 1000)
    _interrupt_and_resume(weights, photos, tmp_path, signal.SIGKILL, random.uniform(0, 0.3, 20).tolist())
