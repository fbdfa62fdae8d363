"""Mask files of every kind give the values that they store."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnets.data import open_data
from segnets.data.masks import file_palette, read_mask
from segnets.errors import DataError
from tests.data.common import image_of, mask_of, write_folder, write_pair

COLOURS = [(0, 0, 0), (200, 40, 40), (40, 90, 220), (7, 7, 7)]
MASK = mask_of(0, classes=4)


def painted() -> Image.Image:
    return Image.fromarray(np.array(COLOURS, dtype=np.uint8)[MASK])


def indexed(order: tuple[int, ...] = (0, 1, 2, 3)) -> Image.Image:
    """Return a palette image of MASK that has the index `order[i]` for class i."""
    image = Image.fromarray(np.array(order, dtype=np.uint8)[MASK]).convert("P")
    colours = [(0, 0, 0)] * 4
    for class_id, index in enumerate(order):
        colours[index] = COLOURS[class_id]
    image.putpalette([value for colour in colours for value in colour])
    return image


FILES = {
    "gray.png": Image.fromarray(MASK),
    "gray.tif": Image.fromarray(MASK),
    "gray.bmp": Image.fromarray(MASK),
    "palette.png": indexed(),
    "16 bits.png": Image.fromarray(MASK.astype(np.uint16)),
    "16 bits.tif": Image.fromarray(MASK.astype(np.uint16)),
    "32 bits.tif": Image.fromarray(MASK.astype(np.int32)),
    "gray and alpha.png": Image.merge("LA", (Image.fromarray(MASK), Image.new("L", (40, 32), 9))),
    "gray as colours.png": Image.fromarray(MASK).convert("RGB"),
}


@pytest.mark.parametrize("name", FILES)
def test_values_are_as_stored(name: str, tmp_path: Path) -> None:
    FILES[name].save(tmp_path / name)
    values = read_mask(tmp_path / name)
    assert values.dtype == (np.uint16 if "bits" in name else np.uint8)
    np.testing.assert_array_equal(values, MASK)


def test_large_values_of_16_bits(tmp_path: Path) -> None:
    large = MASK.astype(np.uint16) * 20000
    Image.fromarray(large).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), large)


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(MASK > 1).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), MASK > 1)


@pytest.mark.parametrize("name", ["rgb.png", "rgba.png", "rgb.bmp", "rgb.tif"])
def test_colours_are_looked_up(name: str, tmp_path: Path) -> None:
    image = painted()
    if name == "rgba.png":
        image.putalpha(Image.fromarray(MASK))
    image.save(tmp_path / name)
    np.testing.assert_array_equal(read_mask(tmp_path / name, COLOURS), MASK)


def test_indices_are_ids_unless_colours_are_asked_for(tmp_path: Path) -> None:
    indexed((3, 1, 0, 2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", COLOURS), np.array([3, 1, 0, 2])[MASK])
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", COLOURS, by_colour=True), MASK)
    assert file_palette(tmp_path / "a.png")[:4] == [COLOURS[2], COLOURS[1], COLOURS[3], COLOURS[0]]
    Image.fromarray(MASK).save(tmp_path / "b.png")
    assert file_palette(tmp_path / "b.png") == []


def test_a_palette_of_many_colours(tmp_path: Path) -> None:
    palette = [(number % 256, number // 256, 9) for number in range(300)]
    values = np.arange(300, dtype=np.uint16).reshape(15, 20)
    Image.fromarray(np.array(palette, dtype=np.uint8)[values]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", palette), values)


def test_colours_that_are_not_in_the_palette(tmp_path: Path) -> None:
    image = painted()
    image.putpixel((5, 5), (255, 1, 2))
    image.putpixel((6, 5), (255, 1, 2))
    image.putpixel((7, 5), (9, 9, 9))
    image.save(tmp_path / "a.png")
    message = r"a\.png: 3 pixels have colours that are not in the palette, most often \[255, 1, 2\]"
    with pytest.raises(DataError, match=message):
        read_mask(tmp_path / "a.png", COLOURS)
    with pytest.raises(DataError, match="the palette lists one of them twice"):
        read_mask(tmp_path / "a.png", [*COLOURS, COLOURS[1]])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            Image.fromarray(MASK.astype(np.float32)),
            r"a\.tif: has mode 'F', which is not supported. Save the mask as PNG",
        ),
        (Image.fromarray(MASK.astype(np.int32) - 1), r"a\.tif: has values -1..2. Expected class ids 0..65535"),
        (Image.fromarray(MASK).convert("CMYK"), r"a\.tif: has mode 'CMYK'"),
    ],
)
def test_pixels_that_are_no_ids(image: Image.Image, message: str, tmp_path: Path) -> None:
    image.save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=message):
        read_mask(tmp_path / "a.tif")


def test_files_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("nothing")
    with pytest.raises(DataError, match=r"text\.png: can't be read as a mask \(not an image\). Save it again"):
        read_mask(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"gone\.png: no such file. Add the mask"):
        read_mask(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: is not a regular file"):
        read_mask(tmp_path / "pipe.png")


def test_ids_and_ignored_values_become_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, description='classes = ["b", "c"]\nids = [2, 700]\nignore = [0, 1]')
    values = np.array([[0, 1, 2, 700, 255]], dtype=np.uint16)
    write_pair(folder / "train", "000", image_of(0, 1, 5), values)
    data = open_data(folder)
    pair = data.read(data.samples("train")[0])
    assert pair.mask.dtype == np.uint8
    assert pair.mask.tolist() == [[255, 255, 0, 1, 255]]


def test_255_is_a_class_if_ids_say_so(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, description='classes = ["no", "yes"]\nids = [0, 255]')
    write_pair(folder / "train", "000", image_of(0, 1, 2), np.array([[0, 255]], dtype=np.uint8))
    data = open_data(folder)
    assert data.read(data.samples("train")[0]).mask.tolist() == [[0, 1]]


def test_a_value_without_a_class_is_an_error_in_the_middle_of_a_run(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    write_pair(folder / "train", "000", image_of(0, 1, 2), np.array([[0, 3]], dtype=np.uint8))
    data = open_data(folder)
    message = r"train/masks/000\.png: value 3 is neither a class id \(0\.\.2\) nor ignored.*check-data"
    with pytest.raises(DataError, match=message):
        data.read(data.samples("train")[0])


def test_colours_of_classes_are_different_and_customary(tmp_path: Path) -> None:
    description = 'classes = ["Background", "sky", "traffic-light", "SKY", "other", "x"]'
    data = open_data(write_folder(tmp_path, description=description))
    assert data.palette == ()
    assert data.colours[:3] == ((0, 0, 0), (70, 130, 180), (250, 170, 30))
    assert len({*data.colours}) == 6
    many = data.with_classes(tuple(map(str, range(255))))
    assert len({*many.colours}) == len(many.colours) == 255
    assert (0, 0, 0) not in many.colours


def test_without_names_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, description="")
    write_pair(folder / "train", "000", image_of(0, 1, 3), np.array([[0, 254, 255]], dtype=np.uint8))
    data = open_data(folder)
    assert data.read(data.samples("train")[0]).mask.tolist() == [[0, 254, 255]]
    named = data.with_classes(("a", "b", "c"), ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    assert (named.classes, len(named.palette)) == (("a", "b", "c"), 3)
    with pytest.raises(DataError, match="value 254 is neither a class id"):
        named.read(named.samples("train")[0])


@pytest.mark.parametrize("suffix", ["gif", "tif"])
def test_a_mask_of_several_pages_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mask.{suffix}"
    Image.fromarray(MASK).save(path, save_all=True, append_images=[Image.fromarray(MASK[::-1])])
    with pytest.raises(DataError, match=r"has 2 pages or frames\. Save one mask per file"):
        read_mask(path)
