"""`check_data` finds each mistake, and names the file and the fix."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from segnets.data import open_data
from segnets.data.check import DataReport, check_data, grouped
from segnets.data.dataset import Problem
from tests.data.common import image_of, mask_of, write_folder, write_pair

COLOURS = ((0, 0, 0), (200, 40, 40), (40, 90, 220))
PALETTE = f"palette = {[list(colour) for colour in COLOURS]}\n"
CLASSES = 'classes = ["sky", "road", "car"]\n'


def report_of(folder: Path) -> DataReport:
    return check_data(open_data(folder))


def change_masks(folder: Path, change: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.integer]]) -> None:
    for path in folder.glob("*/masks/*.png"):
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def as_palette_image(mask: npt.NDArray[np.uint8], order: tuple[int, ...]) -> Image.Image:
    """Return a palette image that shows COLOURS, with the index `order[i]` for class i."""
    image = Image.fromarray(np.array(order, dtype=np.uint8)[mask]).convert("P")
    flat = [0] * 768
    for class_id, index in enumerate(order):
        flat[3 * index : 3 * index + 3] = COLOURS[class_id]
    image.putpalette(flat)
    return image


def test_a_sound_data_set(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    data = open_data(write_folder(tmp_path))
    report = check_data(data, progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert not report.warnings
    assert seen == [(number, 6) for number in range(1, 7)]
    masks = [data.read(sample).mask for sample in data.samples("train")]
    assert report.splits["train"].pixels == tuple(int(sum((mask == i).sum() for mask in masks)) for i in range(3))
    assert report.splits["val"].sizes == {(32, 40): 2}
    assert report.lines()[-1] == f"{tmp_path}: 6 images, no errors, no warnings"
    assert report.to_json()["ok"] is True


Change = Callable[[Path], object]


def shifted(folder: Path) -> None:
    change_masks(folder, lambda mask: mask + 1)


def one_more(folder: Path) -> None:
    change_masks(folder, lambda mask: np.where(mask_edge(mask), 3, mask).astype(np.uint8))


def mask_edge(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return np.arange(mask.shape[1]) < 2


def gray_colours(folder: Path) -> None:
    (folder / "dataset.toml").write_text(CLASSES + PALETTE)
    change_masks(folder, lambda mask: np.asarray(as_palette_image(mask, (0, 1, 2)).convert("L")))


def indices_in_another_order(folder: Path) -> None:
    (folder / "dataset.toml").write_text(CLASSES + PALETTE)
    path = folder / "train/masks/001.png"
    as_palette_image(np.asarray(Image.open(path)), (2, 1, 0)).save(path)


def palettes_that_differ(folder: Path) -> None:
    for number, path in enumerate(sorted((folder / "train/masks").iterdir())):
        as_palette_image(np.asarray(Image.open(path)), (0, 1, 2) if number < 3 else (2, 1, 0)).save(path)


def other_colours(folder: Path) -> None:
    (folder / "dataset.toml").write_text('classes = ["sky", "road"]\npalette = [[0, 0, 0], [200, 40, 40]]')
    for path in folder.glob("train/masks/*.png"):
        as_palette_image(np.asarray(Image.open(path)), (0, 1, 2)).convert("RGB").save(path)
    for path in folder.glob("val/masks/*.png"):
        Image.fromarray(np.minimum(np.asarray(Image.open(path)), 1)).save(path)


def other_names(folder: Path) -> None:
    for path in (folder / "train/masks").iterdir():
        path.rename(path.with_stem(f"{path.stem}_L"))


def smoothed(folder: Path) -> None:
    path = folder / "train/masks/002.png"
    noise = np.random.default_rng(0).integers(0, 256, (32, 40), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def other_size(folder: Path) -> None:
    write_pair(folder / "train", "001", image_of(1), mask_of(1, 24, 40))


def turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image_of(1)).save(folder / "train/images/001.png", exif=exif)


def other_format(folder: Path) -> None:
    path = folder / "train/masks/001.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()


def without_val(folder: Path) -> None:
    shutil.rmtree(folder / "val/images")
    shutil.rmtree(folder / "val/masks")
    (folder / "val/images").mkdir()


def binary(folder: Path) -> None:
    (folder / "dataset.toml").write_text('classes = ["other", "water"]\n')
    change_masks(folder, lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8))


def same_stem(folder: Path) -> None:
    path = folder / "train/images/001.png"
    Image.open(path).save(path.with_suffix(".bmp"))


ERRORS: dict[str, tuple[Change, str, str]] = {
    "out of range": (
        lambda folder: write_pair(folder / "train", "002", image_of(2), mask_of(2, classes=3) * 7),
        "train/masks/002.png: values 7, 14 have no class. Expected 0..2",
        "ignore = [7, 14] in",
    ),
    "off by one": (
        shifted,
        "(and 5 more files: 001.png, 002.png, 003.png, ...): the values are 1..3, off by one",
        "ids",
    ),
    "one more": (one_more, "train/masks/000.png (and 5 more files", "pass --ignore 3, or write ignore = [3]"),
    "scaled": (
        lambda folder: change_masks(folder, lambda mask: mask * 100),
        "the values 100, 200 are multiples of 100",
        "write ids = [0, 100, 200] to",
    ),
    "scaled to 16 bits": (
        lambda folder: change_masks(folder, lambda mask: mask.astype(np.uint16) * 257),
        "the values 257, 514 are multiples of 257",
        "Divide the masks by 257; they then have the ids 0, 1, 2",
    ),
    "colours as gray": (
        gray_colours,
        "the values 88, 90 are the gray levels of the palette",
        "write ids = [0, 88, 90]",
    ),
    "colours of VOC as gray": (
        lambda folder: change_masks(folder, lambda mask: np.array([0, 38, 75], dtype=np.uint8)[mask]),
        "the values 38, 75 are the gray levels of PASCAL VOC's colours",
        "write ids = [0, 38, 75]",
    ),
    "palette as ids": (indices_in_another_order, "train/masks/001.png: its index", 'masks = "colours"'),
    "palettes differ": (palettes_that_differ, "train/masks/003.png: its index", "palette = [[red, green, blue], ...]"),
    "smoothed": (smoothed, "train/masks/002.png: values 3, 4, 5", "They look like colours or a photograph"),
    "colours without palette": (
        lambda folder: as_palette_image(mask_of(1), (0, 1, 2)).convert("RGB").save(folder / "train/masks/001.png"),
        "train/masks/001.png: has colours, but the data set has no palette; together the masks have 3: [",
        "Write palette = [[red, green, blue], ...] to",
    ),
    "colours that are not in the palette": (
        other_colours,
        "000.png (and 3 more files: 001.png, 002.png, 003.png): has colours that are not in the palette; together the "
        "masks have 1: [40, 90, 220]",
        "Add them to palette in",
    ),
    "photographs as masks": (
        lambda folder: Image.fromarray(image_of(1)).save(folder / "train/masks/001.png"),
        "train/masks/001.png: has colours, but",
        "This many colours usually come from smoothing or compression",
    ),
    "missing mask": (
        lambda folder: (folder / "train/masks/003.png").unlink(),
        "train/images/003.png: has no mask with the same name in",
        "Add the mask, or remove the image",
    ),
    "no masks": (
        lambda folder: shutil.rmtree(folder / "train/masks"),
        "train/images/000.png (and 3 more files: 001.png, 002.png, 003.png): has no mask with the same name in",
        "Add the mask, or remove the image",
    ),
    "other names": (
        other_names,
        "train: no mask has the name of an image: the first are 000_L.png and 000.png",
        "Name each mask like its image: 000.png.",
    ),
    "missing image": (
        lambda folder: (folder / "val/images/100.png").unlink(),
        "val/masks/100.png: has no image with the same name in",
        "Add the image, or remove the mask",
    ),
    "same name": (same_stem, "train/images/001.png: has the same name as 001.bmp", "Remove or rename"),
    "wrong size": (other_size, "train/masks/001.png: has 40x24 pixels, but its image has 40x32", "Resize the mask"),
    "wrong width": (
        lambda folder: write_pair(folder / "train", "001", image_of(1), mask_of(1, 32, 41)),
        "train/masks/001.png: has 41x32 pixels, but its image has 40x32",
        "Resize the mask",
    ),
    "turned": (
        turned,
        "train/masks/001.png: has 40x32 pixels, but its image has 32x40",
        "rotated by its EXIF orientation",
    ),
    "unreadable image": (
        lambda folder: (folder / "train/images/001.png").write_bytes(b"\x89PNG nothing"),
        "train/images/001.png: not an image that Pillow can read: is a PNG image, damaged",
        "Replace the file, or remove the sample.",
    ),
    "truncated mask": (
        lambda folder: (folder / "train/masks/001.png").write_bytes((folder / "train/masks/001.png").read_bytes()[:70]),
        "train/masks/001.png: can't be read as a mask",
        "Save it again, as PNG",
    ),
    "empty file": (
        lambda folder: (folder / "train/masks/001.png").write_bytes(b""),
        "train/masks/001.png: can't be read as a mask (not an image)",
        "Save it again",
    ),
    "jpeg": (other_format, "train/masks/001.jpg: is a JPEG, whose compression changes class ids", "Save masks as PNG"),
    "empty split": (without_val, "the split 'val' has no images", "Add images, or remove the split"),
    "binary": (
        binary,
        "the values are 0 and 255 only, and 255 is ignored, so 'water' has no pixels",
        "ids = [0, 255]",
    ),
    "no classes": (
        lambda folder: (folder / "dataset.toml").unlink(),
        "the classes have no names. The masks have the values 0, 1, 2",
        "--classes",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str, tmp_path: Path) -> None:
    change, what, fix = ERRORS[name]
    change(write_folder(tmp_path))
    report = report_of(tmp_path)
    assert not report.ok
    assert len(report.errors) == 1, report.errors
    assert what in report.errors[0]
    assert fix in report.errors[0]
    assert report.errors[0].startswith(str(tmp_path))


def copied(split: str, name: str, mask_seed: int) -> Change:
    return lambda folder: write_pair(folder / split, name, image_of(1), mask_of(mask_seed))


def compressed_again(folder: Path) -> None:
    image, mask = image_of(9, 96, 128), mask_of(9, 96, 128)
    write_pair(folder / "train", "first", image, mask)
    write_pair(folder / "val", "again", image, mask)
    (folder / "val/images/again.png").unlink()
    Image.fromarray(image).resize((256, 192)).save(folder / "val/images/again.jpg", quality=90)
    Image.fromarray(mask).resize((256, 192), Image.Resampling.NEAREST).save(folder / "val/masks/again.png")


def only_road(folder: Path) -> None:
    for path in folder.glob("val/masks/*"):
        Image.new("L", (40, 32), 1).save(path)


def deep_image(folder: Path) -> None:
    Image.fromarray(image_of(1)[:, :, 0].astype(np.uint16) * 256).save(folder / "train/images/001.png")


def transparent(folder: Path) -> None:
    image = Image.fromarray(image_of(1)).convert("RGBA")
    image.putalpha(100)
    image.save(folder / "train/images/001.png")


WARNINGS: dict[str, tuple[Change, str, str]] = {
    "never seen": (
        only_road,
        "classes 'sky' (0), 'car' (2) have no pixel in the split 'val'",
        "add images of these classes",
    ),
    "duplicate": (copied("train", "twin", 1), "train/images/twin.png: is the same picture as 001.png.", "Remove one"),
    "different mask": (
        copied("train", "twin", 2),
        "same picture as 001.png, with a different mask",
        "Remove one of the two",
    ),
    "two splits": (copied("val", "leak", 1), "val/images/leak.png: is the same picture as", "scores on 'val' would be"),
    "compressed again": (
        compressed_again,
        "val/images/again.jpg: is nearly the same picture as",
        "train/images/first.png in the split 'train' (resized or compressed again). Remove one of the two",
    ),
    "void": (
        lambda folder: (folder / "dataset.toml").write_text('classes = ["sky", "road", "Void"]'),
        "class 'Void' (2) is trained like any other class",
        "write ignore = [2] to",
    ),
    "ignored class": (
        lambda folder: (folder / "dataset.toml").write_text(CLASSES + "ignore = [2]"),
        "class 'car' is ignored, so one output of the network is never trained",
        "Remove it from classes",
    ),
    "ignored value": (
        lambda folder: (folder / "dataset.toml").write_text(CLASSES + "ignore = [9]"),
        "the ignored value 9 is in no mask",
        "--ignore",
    ),
    "ignored mask": (
        lambda folder: Image.new("L", (40, 32), 255).save(folder / "train/masks/001.png"),
        "train/masks/001.png: every pixel is ignored",
        "Correct the mask",
    ),
    "16-bit mask": (
        lambda folder: Image.fromarray(mask_of(1).astype(np.uint16)).save(folder / "train/masks/001.png"),
        "train/masks/001.png: has 16 bits; its values are used as class ids",
        "",
    ),
    "16-bit image": (deep_image, "train/images/001.png: its values 0..65535 were scaled to 0..255", ""),
    "transparent": (transparent, "train/images/001.png: its transparency was dropped", ""),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name: str, tmp_path: Path) -> None:
    change, what, fix = WARNINGS[name]
    change(write_folder(tmp_path))
    report = report_of(tmp_path)
    assert report.ok, report.errors
    assert len(report.warnings) == 1, report.warnings
    assert what in report.warnings[0]
    assert fix in report.warnings[0]


def test_a_class_of_id_0_that_is_never_seen_may_be_an_id_off_by_one(tmp_path: Path) -> None:
    change_masks(write_folder(tmp_path), lambda mask: np.maximum(mask, 1))
    assert "they are off by one" in report_of(tmp_path).warnings[0]


def test_two_classes_may_share_a_colour(tmp_path: Path) -> None:
    colours = [COLOURS[0], COLOURS[1], COLOURS[0]]
    text = f'classes = ["sky", "road", "car"]\npalette = {[list(colour) for colour in colours]}\n'
    folder = write_folder(tmp_path, description=text)
    for path in sorted(folder.glob("*/masks/*")):
        image = Image.fromarray(np.asarray(Image.open(path)))
        image.putpalette([value for colour in colours for value in colour])
        image.save(path)
    assert report_of(folder).ok


def test_a_test_split_may_lack_masks(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    shutil.copytree(folder / "val/images", folder / "test/images")
    for number in (0, 1):
        Image.fromarray(image_of(200 + number)).save(folder / f"test/images/10{number}.png")
    report = report_of(folder)
    assert report.ok
    assert report.splits["test"].without_mask == 2
    (folder / "test/masks").mkdir()
    Image.fromarray(mask_of(200)).save(folder / "test/masks/100.png")
    assert "test/images/101.png: has no mask" in report_of(folder).errors[0]


def test_empty_pictures_are_no_duplicates(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    for number in (0, 1):
        image = np.full((32, 40, 3), 100, np.uint8)
        image[0, 0] += number
        write_pair(folder / "train", f"empty{number}", image, mask_of(number))
    assert not report_of(folder).warnings


def test_many_files_and_kinds_are_counted() -> None:
    same = [Problem("a", Path(f"{number}.png"), "is bad", "Fix it.") for number in range(9)]
    assert grouped(same) == ["0.png (and 8 more files: 1.png, 2.png, 3.png, ...): is bad. Fix it."]
    different = [Problem("wrong size", Path(f"{number}.png"), f"has {number}") for number in range(9)]
    lines = grouped(different)
    assert lines[4:] == ["4.png: has 4", "wrong size: 4 more files like these"]
