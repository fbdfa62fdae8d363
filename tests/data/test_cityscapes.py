"""Cityscapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import segnets.torchvision_compat
from segnets.data import open_data
from segnets.data.check import check_data
from segnets.errors import DataError
from tests.data.common import image_of


def write(root: Path, split: str, name: str, kind: str, mask: npt.NDArray[np.uint8]) -> None:
    city = name.partition("_")[0]
    for folder in (root / "leftImg8bit" / split / city, root / "gtFine" / split / city):
        folder.mkdir(parents=True, exist_ok=True)
    image = image_of(sum(name.encode()), *mask.shape)
    Image.fromarray(image).save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
    Image.fromarray(mask).save(root / f"gtFine/{split}/{city}/{name}_gtFine_{kind}.png")


def test_classes_ids_and_colours_are_those_of_torchvision(tmp_path: Path) -> None:
    every_id = np.arange(34, dtype=np.uint8).reshape(2, 17).repeat(4, 0).repeat(4, 1)
    write(tmp_path, "train", "bonn_000000_000001", "labelIds", every_id)
    write(tmp_path, "val", "ulm_000000_000002", "labelIds", every_id)
    write(tmp_path, "test", "berlin_000000_000003", "labelIds", np.zeros_like(every_id))
    data = open_data(tmp_path)
    listed = [each for each in segnets.torchvision_compat.torchvision.datasets.Cityscapes.classes if each.train_id < 19]
    trained = sorted((each for each in listed if each.train_id >= 0), key=lambda each: each.train_id)
    assert data.classes == tuple(each.name for each in trained)
    assert data.ids == tuple(each.id for each in trained)
    assert data.palette == tuple(each.color for each in trained)
    assert [sample.name for sample in data.samples("train")] == ["bonn/bonn_000000_000001"]
    mask = data.read(data.samples("train")[0]).mask
    for each in segnets.torchvision_compat.torchvision.datasets.Cityscapes.classes:
        if each.id >= 0:
            expected = each.train_id if 0 <= each.train_id < 19 else 255
            assert {*mask[every_id == each.id].tolist()} == {expected}
    report = check_data(data)
    assert report.ok
    assert report.splits["test"].without_mask == 1


def test_masks_of_train_ids(tmp_path: Path) -> None:
    mask = np.arange(19, dtype=np.uint8)[None].repeat(4, 0)
    mask[0] = 255
    write(tmp_path, "train", "bonn_000000_000001", "labelTrainIds", mask)
    data = open_data(tmp_path, ignore=[3])
    expected = np.where(mask == 3, 255, mask)
    assert (data.read(data.samples("train")[0]).mask == expected).all()


def test_masks_that_are_not_unpacked(tmp_path: Path) -> None:
    write(tmp_path, "train", "bonn_000000_000001", "labelIds", np.full((4, 4), 7, np.uint8))
    write(tmp_path, "train", "bonn_000000_000002", "labelIds", np.full((4, 4), 7, np.uint8))
    (tmp_path / "gtFine/train/bonn/bonn_000000_000001_gtFine_labelIds.png").unlink()
    assert "bonn_000000_000001_gtFine_labelIds.png: no such file" in check_data(open_data(tmp_path)).errors[0]
    (tmp_path / "gtFine").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="expected the folders leftImg8bit and gtFine"):
        open_data(tmp_path)
