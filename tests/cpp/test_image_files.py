"""JPEG and PNG in segnets-run. The tests are skipped if the build reads none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from segnets.deploy import load_exported
from tests.cpp.common import fails, run


@pytest.fixture(scope="module")
def reader(build: Path) -> Path:
    formats = run(build, "--help").stdout.rpartition("reads ")[2]
    if "JPEG" not in formats or "PNG" not in formats:
        pytest.skip("reads only PPM (Debian and Ubuntu: install libjpeg-dev and libpng-dev)")
    return build


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Return a smooth image of 97x65 pixels, which JPEG compresses with little loss."""
    y, x = np.mgrid[0:65, 0:97]
    channels = [127 + 120 * np.sin(x / 9 + y / 17), 2.6 * x, 3.9 * y]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def save_turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers rotate it by 90 degrees
    image.save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("i.png", lambda image, path: image.save(path)),
        ("i.jpg", lambda image, path: image.save(path, quality=95)),
        ("progressive.jpg", lambda image, path: image.save(path, progressive=True)),
        ("turned.jpg", save_turned),
        ("gray.png", lambda image, path: image.convert("L").save(path)),
        ("gray.jpg", lambda image, path: image.convert("L").save(path)),
        ("palette.png", lambda image, path: image.quantize(16).save(path)),
        ("one-bit.png", lambda image, path: image.convert("1").save(path)),
        ("transparent.png", lambda image, path: image.convert("RGBA").save(path)),
    ],
)
def test_the_mask_of_an_image_file_equals_that_of_python(
    name: str,
    save: Callable[[Image.Image, Path], object],
    reader: Path,
    photo: Image.Image,
    small: Path,
    tmp_path: Path,
) -> None:
    save(photo, tmp_path / name)
    result = run(reader, small, tmp_path / name, tmp_path / "m.png", "--overlay", tmp_path / "o.png")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / name) as image, Image.open(tmp_path / "m.png") as mask:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).copy()
        expected = load_exported(small).segment(torch.from_numpy(pixels)[None])[0].numpy()
        assert np.array_equal(np.asarray(mask), expected)


@pytest.mark.parametrize("name", ["i.jpg", "i.png"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_an_image_file_that_ends_too_early(
    name: str, share: float, reader: Path, photo: Image.Image, small: Path, tmp_path: Path
) -> None:
    photo.save(tmp_path / name)
    contents = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(contents[: int(share * len(contents))])
    result = run(reader, small, tmp_path / name, tmp_path / "m.png")
    assert result.returncode == 1
    assert "ends too early" in result.stderr or "damaged" in result.stderr, result.stderr
    assert not (tmp_path / "m.png").exists()


def test_a_jpeg_with_trailing_bytes(reader: Path, photo: Image.Image, small: Path, tmp_path: Path) -> None:
    photo.save(tmp_path / "i.jpg")
    with (tmp_path / "i.jpg").open("ab") as file:
        file.write(bytes(1000))  # as some cameras write them
    assert run(reader, small, tmp_path / "i.jpg", tmp_path / "m.pgm").returncode == 0


def test_a_web_page_is_refused(reader: Path, small: Path, tmp_path: Path) -> None:
    (tmp_path / "i.jpg").write_text("<!DOCTYPE html>")
    fails(reader, "is not an image", small, tmp_path / "i.jpg", tmp_path / "m.pgm")
