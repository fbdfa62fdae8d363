"""Data sets in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnets.data import check_data, open_data
from segnets.errors import DataError
from tests.data.common import CLASSES, image_of, mask_of, write_folder, write_pair


def test_a_folder_with_splits(tmp_path: Path) -> None:
    data = open_data(write_folder(tmp_path))
    assert data.classes == CLASSES
    assert list(data.splits) == ["train", "val"]
    assert [sample.name for sample in data.samples("train")] == ["000", "001", "002", "003"]
    pair = data.read(data.samples("val")[1])
    assert pair.image.dtype == pair.mask.dtype == np.uint8
    np.testing.assert_array_equal(pair.image, image_of(101))
    np.testing.assert_array_equal(pair.mask, mask_of(101))


def test_names_of_splits_and_subfolders(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_pair(tmp_path / "night", "b", image_of(1), mask_of(1))
    for kind in ("images", "masks"):
        (tmp_path / "val" / kind / "town").mkdir()
        (tmp_path / f"val/{kind}/100.png").rename(tmp_path / f"val/{kind}/town/100.png")
        (tmp_path / f"val/{kind}/.hidden.png").write_bytes(b"")
        (tmp_path / f"val/{kind}/notes.txt").write_bytes(b"")
    data = open_data(tmp_path)
    assert list(data.splits) == ["train", "val", "night"]
    assert [sample.name for sample in data.samples("val")] == ["101", "town/100"]
    assert not data.problems


def test_a_loop_of_links_is_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train/images/loop").symlink_to(tmp_path / "train")
    assert len(open_data(tmp_path).samples("train")) == 4


def test_a_folder_without_splits(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", image_of(1), mask_of(1))
    assert [sample.name for sample in open_data(tmp_path, classes=CLASSES).samples("all")] == ["a"]


@pytest.mark.parametrize(
    "line", ["{}", "{}.png", "images/{0}.png masks/{0}.png", "/x/y/images/{0}.png /x/y/masks/{0}.png"]
)
def test_lists_of_files(line: str, tmp_path: Path) -> None:
    for name in "abc":
        write_pair(tmp_path, name, image_of(ord(name)), mask_of(ord(name)))
    (tmp_path / "train.txt").write_text(f"{line.format('c')}\r\n\n{line.format('a')}\n")
    (tmp_path / "val.txt").write_text(line.format("b"))
    (tmp_path / "notes.txt").write_text("no list")
    data = open_data(tmp_path, classes=CLASSES)
    assert list(data.splits) == ["train", "val"]
    assert not data.problems
    assert [Path(sample.name).name for sample in data.samples("train")] == ["a", "c"]
    np.testing.assert_array_equal(data.read(data.samples("val")[0]).mask, mask_of(ord("b")))


def test_names_with_spaces_in_lists(tmp_path: Path) -> None:
    for name in ("a", "my photo", "my photo 2"):
        write_pair(tmp_path, name, image_of(1), mask_of(1))
    (tmp_path / "train.txt").write_text("my photo\nmy photo 2.png\nimages/a.png masks/a.png\n")
    data = open_data(tmp_path, classes=CLASSES)
    assert not data.problems
    assert [sample.name for sample in data.samples("train")] == ["images/a", "my photo", "my photo 2"]


def test_mistakes_in_lists(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", image_of(1), mask_of(1))
    write_pair(tmp_path, "b", image_of(2), mask_of(2))
    (tmp_path / "masks/b.png").unlink()
    (tmp_path / "train.txt").write_text("a\ngone\na\nb\n")
    problems = [str(problem) for problem in open_data(tmp_path).problems]
    assert len(problems) == 3
    assert "train.txt: line 2 names gone, which is not in" in problems[0]
    assert "train.txt: line 3 names a again. Remove the line." in problems[1]
    assert "images/b.png: has no mask with the same name in" in problems[2]
    (tmp_path / "train.txt").write_text("a b c\n")
    with pytest.raises(DataError, match=r"train\.txt, line 1: expected a name, or the paths"):
        open_data(tmp_path)
    (tmp_path / "train.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"train\.txt: can't be read: .*Save the list as UTF-8"):
        open_data(tmp_path)


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a data set\. Expected the folders train/images and train/masks"):
        open_data(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: is not a folder"):
        open_data(tmp_path / "file")
    with pytest.raises(DataError, match="gone: no such folder"):
        open_data(tmp_path / "gone")
    with pytest.raises(DataError, match="format='zip': expected 'auto', 'folder', 'voc'"):
        open_data(tmp_path, format="zip")


def test_a_split_that_is_empty_or_unknown(tmp_path: Path) -> None:
    data = open_data(write_folder(tmp_path, val=0))
    with pytest.raises(DataError, match=r"the split 'val' does not exist\. Splits with images: train"):
        data.samples("val")
    (tmp_path / "val/images").mkdir(parents=True)
    with pytest.raises(DataError, match="the split 'val' is empty"):
        open_data(tmp_path).samples("val")


def test_samples_without_masks(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train/masks/000.png").unlink()
    data = open_data(tmp_path)
    with pytest.raises(DataError, match=r"train/images/000\.png: has no mask. Add one with the same name"):
        data.read(data.samples("train")[0])


def test_exif_orientation_is_applied_to_images(tmp_path: Path) -> None:
    write_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(image_of(0)).save(tmp_path / "train/images/000.png", exif=exif)
    data = open_data(tmp_path)
    np.testing.assert_array_equal(data.read(data.samples("train")[0]).image, image_of(0)[::-1, ::-1])


@pytest.mark.parametrize("path", ["https://example.com/train-{000..010}.tar", "s3://bucket/data", "pipe:cat a.tar"])
@pytest.mark.parametrize("kind", [str, Path])
def test_addresses_are_not_opened(kind: Any, path: str) -> None:
    with pytest.raises(DataError, match=r"can't be opened as a URL\. (List the shards in|Use an https address)"):
        open_data(kind(path))


def test_many_classes_are_counted(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(256)]
    folder = write_folder(tmp_path, train=1, val=0)
    (warning,) = (
        line for line in check_data(open_data(folder, classes=names[:255])).warnings if "have no pixel" in line
    )
    assert "'c14' (14) and 240 more have no pixel" in warning
    with pytest.raises(DataError, match=r"has 256 classes; at most 255 are supported, .* Merge some"):
        open_data(folder, classes=names)
