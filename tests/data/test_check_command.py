"""`segnets check-data`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnets.cli import main
from tests.data.common import write_folder


def test_a_report_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, picture = write_folder(tmp_path / "data"), tmp_path / "samples.png"
    assert main(["check-data", str(folder), "--out", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["split", "images", "masks", "width", "x", "height", "pixels", "ignored"]
    assert lines[1].split() == ["train", "4", "4", "40x32", "5,120", "-"]
    assert lines[-1] == f"samples with their masks: {picture}"
    with Image.open(picture) as image:
        pixels = np.asarray(image)
    assert pixels.shape[1] == 1520
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_a_folder_without_splits_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "data", val=0)
    for kind in ("images", "masks"):
        (folder / "train" / kind).rename(folder / kind)
    (folder / "train").rmdir()
    assert main(["check-data", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("There are no splits. Divide the images into train and")
    assert main(["train", str(folder), "--model", "fcn_resnet18", "--out", str(tmp_path / "run")]) == 1
    assert "Splits with images: all. Divide the images" in capsys.readouterr().err
    (folder / "train.txt").write_text("000\n001\n")
    (folder / "val.txt").write_text("001\n")
    assert main(["check-data", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"warning: {folder}/images/001.png: is listed in the split 'train' too. Remove it from one" in lines[-3]
    assert lines[-1] == f"{folder}: 3 images, no errors, 1 warning"


def test_errors_give_status_1_and_are_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path, description="")
    call = ["check-data", str(folder), "--classes", "sky,road", "--json"]
    assert main(call) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert "value 2 has no class" in report["errors"][0]
    assert report["splits"]["train"]["sizes"] == {"40x32": 4}
    assert main([*call, "--ignore", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == ["sky", "road"]
    assert report["splits"]["val"]["ignored"] > 0


def test_a_line_feed_in_a_name_breaks_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path)
    (folder / "train/masks/000.png").rename(folder / "train/masks/a\nb.png")
    assert main(["check-data", str(folder)]) == 1
    assert r"masks/a\nb.png: has no image" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [[], ["--classes", "sky,road,car"]])
def test_a_picture_of_a_bad_data_set(tmp_path: Path, classes: list[str]) -> None:
    folder = write_folder(tmp_path / "data", description="")
    shutil.rmtree(folder / "train/masks")
    (folder / "val/masks/100.png").write_bytes(b"")
    assert main(["check-data", str(folder), *classes, "--out", str(tmp_path / "samples.png")]) == 1
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width == 1520


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "is not a data set. Expected the folders train/images and train/masks"),
        (["data", "--classes", "a,a,b"], "classes: 'a' occurs twice"),
        (["data", "--out", "missing/samples.png"], "the folder missing does not exist"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_folder(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("option", [["--ignore", "x"], ["--classes", "a,,b"], ["--ignore", "-1"]])
def test_wrong_usage(option: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check-data", ".", *option])
    assert ended.value.code == 2
