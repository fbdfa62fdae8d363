"""Sources of images."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnets.errors import ImageError
from segnets.inference.sources import FileSource, items_of
from segnets.inference.sources.files import natural_order


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("10.jpg", "2.jpg", "1.PNG", ".hidden.jpg", "notes.txt", "deep/3.jpg", "deep/er/4.tif", "out/5.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def _relative(source: FileSource) -> list[str]:
    return [str(item.relative) for item in source]


def test_a_folder_gives_its_images_in_natural_order(folder: Path) -> None:
    source = FileSource([folder])
    assert _relative(source) == ["1.PNG", "2.jpg", "10.jpg"]
    assert source.skipped == 1


def test_a_folder_is_searched_deeper_if_asked_but_not_for_results(folder: Path) -> None:
    source = FileSource([folder], recursive=True, without=folder / "out")
    assert _relative(source) == ["1.PNG", "2.jpg", "10.jpg", "deep/3.jpg", "deep/er/4.tif"]


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    assert len(_relative(FileSource([folder], recursive=True))) == 6


def test_a_pattern_gives_paths_below_its_fixed_part(folder: Path) -> None:
    assert _relative(FileSource([f"{folder}/*.jpg"])) == ["2.jpg", "10.jpg"]
    assert _relative(FileSource([f"{folder}/**/*.jpg"], without=folder / "out")) == ["2.jpg", "10.jpg", "deep/3.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].jpg").write_bytes(b"")
    assert _relative(FileSource([tmp_path / "a[1].jpg"])) == ["a[1].jpg"]


def test_a_file_is_an_image_whatever_its_suffix(folder: Path) -> None:
    assert _relative(FileSource([folder / "notes.txt", folder / "missing.jpg"])) == ["notes.txt", "missing.jpg"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deep/er/*.png", "no file matches"),
        ("empty", r"empty': has no images \(\.jpg, \.png, "),
        ("http://x/a.jpg", "URLs are not supported"),
    ],
)
def test_a_source_without_images_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=message):
        list(FileSource([name if "://" in name else tmp_path / name]))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not UTF-8")
def test_names_need_not_be_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "new\nline 🙂.jpg").write_bytes(b"")
    assert sorted(_relative(FileSource([tmp_path]))) == sorted([name, "new\nline 🙂.jpg"])


def test_natural_order_is_total() -> None:
    names = ["a10", "a2", "a02", "b", "1a", "a"]
    assert sorted(names, key=natural_order) == ["1a", "a", "a02", "a2", "a10", "b"]


def test_python_sources_are_nested_lazily_and_numbered(folder: Path) -> None:
    drawn: list[int] = []

    def generator() -> Iterator[object]:
        for number in range(3):
            drawn.append(number)
            yield np.zeros((4, 5, 3), np.uint8)

    batch = torch.zeros(2, 4, 5, 3, dtype=torch.uint8)
    items = items_of([folder / "2.jpg", generator(), batch, Image.new("RGB", (5, 4)), b"bytes", io.BytesIO(b"file")])
    assert next(items).source == str(folder / "2.jpg")
    assert drawn == []
    assert next(items).source == "image 2"
    assert drawn == [0]
    assert [item.source for item in items][-1] == "image 9"


def test_other_sources_are_refused() -> None:
    with pytest.raises(TypeError, match="got float"):
        list(items_of([3.5]))
