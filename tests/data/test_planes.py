"""Masks with a plane per class, for classes that overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from segnets.cli import main
from segnets.data import open_data
from segnets.data.augment import training_augmentation
from segnets.data.check import check_data
from segnets.errors import DataError, TrainingError
from segnets.training import Trainer, TrainingConfig
from tests.data.common import image_of, mask_of, write_pair
from tests.data.test_augment import Config

DESCRIPTION = 'classes = ["house", "roof"]\nmasks = "planes"\n'


def planes_of(seed: int) -> Any:
    planes = np.stack([mask_of(seed, classes=2), mask_of(seed + 50, classes=2)])
    planes[:, :3] = 255
    return planes


def write(folder: Path, planes: Any = None, description: str = DESCRIPTION) -> Path:
    for seed, split in enumerate(("train", "val")):
        write_pair(folder / split, "a", image_of(seed), mask_of(seed))
        (folder / split / "masks/a.png").unlink()
        stored = planes_of(seed) if planes is None else planes
        tifffile.imwrite(folder / split / "masks/a.tif", stored, photometric="minisblack")
    (folder / "dataset.toml").write_text(description)
    return folder


def test_planes_are_read_and_counted(tmp_path: Path) -> None:
    data = open_data(write(tmp_path))
    assert data.planes
    pair = data.read(data.samples("train")[0])
    np.testing.assert_array_equal(pair.mask, planes_of(0))
    report = check_data(data)
    assert report.ok, report.errors
    assert not report.warnings
    split = report.splits["train"]
    assert split.pixels == tuple(int((plane == 1).sum()) for plane in planes_of(0))
    assert (split.ignored, split.labelled) == (3 * 40, 29 * 40)
    assert f"{100 * split.pixels[0] / (29 * 40):.1f} %" in "\n".join(report.lines())


def test_a_picture_shows_them(tmp_path: Path) -> None:
    assert main(["check-data", str(write(tmp_path / "data")), "--out", str(tmp_path / "samples.png")]) == 0
    assert (tmp_path / "samples.png").stat().st_size > 1000


@pytest.mark.parametrize("recipe", ["light", "torchvision"])
def test_augmentation_treats_each_plane_alike(recipe: str, tmp_path: Path) -> None:
    data = open_data(write(tmp_path))
    pair = data.read(data.samples("train")[0])
    pair.mask[1] = pair.mask[0]
    augment = training_augmentation(Config(recipe))
    torch.manual_seed(0)
    for _ in range(20):
        _, mask = augment(pair)
        assert mask.shape == (2, 48, 48)
        assert torch.equal(mask[0], mask[1])
        assert {*mask.unique().tolist()} <= {0, 1, 255}


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        (planes_of(0) * 2, r"train/masks/a\.tif .*the planes have the values 2, 254. Expected 0 and 1. Save 0, 1"),
        (
            planes_of(0)[:1],
            r"has 1 x 32 x 40 values \(QYX\), but there are 2 classes. Save one band per class",
        ),
        (planes_of(0).astype(np.float32), r"a\.tif .*has dtype float32. Save planes of 0 and 1 as uint8"),
        (planes_of(0)[:, :30], r"a\.tif .*has 40x30 pixels, but its image has 40x32"),
    ],
)
def test_other_planes_are_errors(planes: Any, message: str, tmp_path: Path) -> None:
    errors = check_data(open_data(write(tmp_path, planes))).errors
    assert len(errors) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(errors[0])


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ('masks = "planes"', 'masks = "planes" needs classes'),
        (DESCRIPTION + "ids = [0, 1]", 'ids and masks = "planes" are mutually exclusive'),
    ],
)
def test_descriptions_that_contradict_themselves(description: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_data(write(tmp_path, description=description))


def test_training_needs_the_decoding_for_planes(tmp_path: Path) -> None:
    data = open_data(write(tmp_path))
    with pytest.raises(TrainingError, match=r"a plane per class, .*Pass --set decoding=multilabel"):
        Trainer(TrainingConfig(data=str(tmp_path), model="lraspp_mobilenet_v3_small", out="run"), data)
