"""PASCAL VOC, with its additional masks, and SBD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from segnets.catalog import VOC_CLASSES
from segnets.data import open_data
from segnets.data.check import check_data
from segnets.errors import DataError
from segnets.palettes import voc_palette
from tests.data.common import image_of, mask_of


def write_voc(root: Path, names: tuple[str, ...], masks: str = "SegmentationClass") -> None:
    (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
    (root / masks).mkdir(exist_ok=True)
    for name in names:
        seed = sum(name.encode())
        Image.fromarray(image_of(seed)).save(root / "JPEGImages" / f"{name}.jpg")
        mask = mask_of(seed, classes=21)
        mask[:2] = 255
        image = Image.fromarray(mask).convert("P")
        image.putpalette([value for colour in voc_palette(256) for value in colour])
        image.save(root / masks / f"{name}.png")


def write_list(root: Path, name: str, lines: tuple[str, ...]) -> None:
    folder = root / "ImageSets/Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("nested", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_lists_and_classes(nested: str, tmp_path: Path) -> None:
    root = tmp_path / nested
    write_voc(root, ("a", "b", "c", "unused"))
    write_list(root, "train", ("b", "a"))
    write_list(root, "val", ("c",))
    data = open_data(tmp_path)
    assert data.classes == VOC_CLASSES
    assert data.palette == tuple(voc_palette(21))
    assert {split: [sample.name for sample in samples] for split, samples in data.splits.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
    }
    pair = data.read(data.samples("val")[0])
    assert (pair.mask[:2] == 255).all()
    assert (pair.mask[2:] == mask_of(ord("c"), classes=21)[2:]).all()
    assert check_data(data).ok


def test_the_additional_masks_serve_the_training_split(tmp_path: Path) -> None:
    write_voc(tmp_path, ("a", "c"))
    write_voc(tmp_path, ("a", "b", "c"), "SegmentationClassAug")
    write_list(tmp_path, "train", ("a",))
    write_list(tmp_path, "val", ("c",))
    write_list(tmp_path, "train_aug", ("/JPEGImages/a.jpg /SegmentationClassAug/a.png", "b"))
    data = open_data(tmp_path)
    assert [sample.name for sample in data.samples("train")] == ["a", "b"]
    assert {sample.mask.parent.name for sample in data.samples("train") if sample.mask} == {"SegmentationClassAug"}
    assert [sample.mask for sample in data.samples("val")] == [tmp_path / "SegmentationClass/c.png"]


def test_without_lists_the_images_with_masks_are_one_split(tmp_path: Path) -> None:
    write_voc(tmp_path, ("a", "b"))
    Image.fromarray(image_of(0)).save(tmp_path / "JPEGImages/without.jpg")
    assert [sample.name for sample in open_data(tmp_path).samples("all")] == ["a", "b"]


def test_a_listed_image_that_is_missing_is_an_error(tmp_path: Path) -> None:
    write_voc(tmp_path, ("a", "b"))
    write_list(tmp_path, "train", ("a", "b", "gone"))
    (tmp_path / "SegmentationClass/b.png").unlink()
    errors = check_data(open_data(tmp_path)).errors
    assert len(errors) == 2
    assert "SegmentationClass/b.png (and 1 more file: gone.png): no such file" in errors[0]
    assert "JPEGImages/gone.jpg: no such file" in errors[1]


def test_other_classes(tmp_path: Path) -> None:
    write_voc(tmp_path, ("a",))
    (tmp_path / "dataset.toml").write_text('classes = ["ground", "tree"]\nignore = [20]')
    data = open_data(tmp_path)
    assert (data.classes, data.ignore, data.palette) == (("ground", "tree"), (20,), ())
    assert open_data(tmp_path, classes=["x"]).classes == ("x",)


def test_sbd(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "cls").mkdir()
    Image.fromarray(image_of(1)).save(tmp_path / "img/a.jpg")
    mask = mask_of(1, classes=21)
    record = np.array([[(mask,)]], dtype=[("Segmentation", object)])
    savemat(tmp_path / "cls/a.mat", {"GTcls": record})
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "train_noval.txt").write_text("a\n")
    data = open_data(tmp_path)
    assert data.classes == VOC_CLASSES
    assert [sample.name for sample in data.samples("train")] == ["a"]
    assert (data.read(data.samples("train")[0]).mask == mask).all()
    record = np.array([[(mask.astype(np.float64),)]], dtype=[("Segmentation", object)])
    savemat(tmp_path / "cls/a.mat", {"GTcls": record})
    with pytest.raises(DataError, match=r"a\.mat: .*\(2 dimensions of float64\)"):
        data.read(data.samples("train")[0])
    (tmp_path / "cls/a.mat").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.mat: can't be read as a mask of SBD"):
        data.read(data.samples("train")[0])


def test_no_voc(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no JPEGImages"):
        open_data(tmp_path, format="voc")
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(DataError, match=r"has no SegmentationClass\. Unpack the masks too"):
        open_data(tmp_path)
