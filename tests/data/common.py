"""Small data sets, made of noise."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = ("sky", "road", "car")


def image_of(seed: int, height: int = 32, width: int = 40) -> npt.NDArray[np.uint8]:
    """Return an image of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def mask_of(seed: int, height: int = 32, width: int = 40, classes: int = 3) -> npt.NDArray[np.uint8]:
    """Return a mask of blocks, in which each class occurs."""
    coarse = np.random.default_rng(seed).integers(0, classes, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    coarse.flat[:classes] = range(classes)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


def write_pair(folder: Path, name: str, image: npt.NDArray[np.uint8], mask: npt.NDArray[np.integer]) -> None:
    """Write an image and its mask to a split's folder."""
    for kind, pixels in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{name}.png")


def write_folder(folder: Path, *, train: int = 4, val: int = 2, description: str | None = None) -> Path:
    """Write a data set of three classes, with a split of each kind and `dataset.toml`."""
    for split, start, count in (("train", 0, train), ("val", 100, val)):
        for number in range(start, start + count):
            write_pair(folder / split, f"{number:03}", image_of(number), mask_of(number))
    text = 'classes = ["sky", "road", "car"]\nlicence = "CC0"\n' if description is None else description
    (folder / "dataset.toml").write_text(text)
    return folder


def make_data_set(folder: Path) -> None:
    """Write a data set of two classes, dark and light, with four images in each of its splits."""
    for split, number in itertools.product(("train", "val"), range(4)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        image = image_of(8 * number + len(split))
        Image.fromarray(image).save(folder / split / "images" / f"{split}{number}.png")
        Image.fromarray(image[:, :, 0] // 128).save(folder / split / "masks" / f"{split}{number}.png")
    (folder / "dataset.toml").write_text('classes = ["dark", "light"]')
