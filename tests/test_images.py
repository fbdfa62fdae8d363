"""`segnets.segment` on paths, Pillow images, arrays and tensors, and the decoding of images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import segnets
from segnets.images import image_pixels
from segnets.weights import load
from tests.oracle import randomise_

EXIF_ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def pixels() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> segnets.SegmentationModel:
    network = segnets.create_model("lraspp_mobilenet_v3_small", num_classes=5)
    randomise_(network)
    path = tmp_path_factory.mktemp("model") / "w.safetensors"
    segnets.save(network, path, preprocessing=segnets.Preprocessing(resize="none", mean=(0.1, 0.2, 0.3)))
    loaded = load(path)
    assert isinstance(loaded, segnets.SegmentationModel)
    return loaded


def test_every_kind_of_image_gives_the_same_mask(
    model: segnets.SegmentationModel, pixels: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    assert model.card is not None
    logits = model(segnets.preprocess(torch.from_numpy(pixels)[None], model.card.preprocessing))["out"]
    expected = logits.argmax(dim=1)[0].to(torch.uint8)
    assert len(expected.unique()) > 1
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    images: list[Any] = [pixels, Image.fromarray(pixels), path, str(path), np.asfortranarray(pixels)]
    for image in images:
        mask = segnets.segment(model, image)
        assert isinstance(mask, np.ndarray)
        assert (mask.shape, mask.dtype) == ((24, 36), np.uint8)
        assert np.array_equal(mask, expected.numpy())
    batch = segnets.segment(model, torch.from_numpy(np.stack([pixels, pixels])))
    assert torch.equal(batch, torch.stack([expected, expected]))


def test_the_preprocessing_is_the_callers_the_cards_or_torchvisions(
    model: segnets.SegmentationModel, pixels: npt.NDArray[np.uint8]
) -> None:
    assert model.card is not None
    default = segnets.Preprocessing(size=48)
    own = segnets.segment(model, pixels)
    other = segnets.segment(model, pixels, default)
    assert not np.array_equal(own, other)
    assert np.array_equal(own, segnets.segment(model, pixels, model.card.preprocessing))
    bare = segnets.create_model("lraspp_mobilenet_v3_small", num_classes=5).eval()
    bare.load_state_dict(model.state_dict())
    batch = torch.from_numpy(pixels)[None]
    assert bare.card is None
    assert torch.equal(segnets.segment(bare, batch), segnets.segment(model, batch, segnets.Preprocessing()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_read_as_it_is_displayed(
    pixels: npt.NDArray[np.uint8], tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }
    assert np.array_equal(image_pixels(tmp_path / "photo.png"), turned[orientation])
    with Image.open(tmp_path / "photo.png") as opened:
        assert np.array_equal(image_pixels(opened), turned[orientation])


def test_gray_transparent_and_palette_images(pixels: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    gray = pixels[:, :, 0]
    repeated = np.stack([gray] * 3, axis=2)
    assert np.array_equal(image_pixels(Image.fromarray(gray)), repeated)
    assert np.array_equal(image_pixels(gray), repeated)
    assert np.array_equal(image_pixels(gray, channels=1), gray[:, :, None])
    assert np.array_equal(image_pixels(np.dstack([pixels, gray]), channels=4), np.dstack([pixels, gray]))
    transparent = Image.fromarray(np.dstack([pixels, gray]))
    assert np.array_equal(image_pixels(transparent), pixels)
    indexed = Image.fromarray(gray % 4).convert("P")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    indexed.save(tmp_path / "indexed.png")
    palette = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], np.uint8)
    assert np.array_equal(image_pixels(tmp_path / "indexed.png"), palette[np.asarray(indexed)])


def test_images_of_other_numbers_of_channels(pixels: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    gray, four = pixels[:, :, :1], np.dstack([pixels, pixels[:, :, 0]])
    for channels, mode, expected in ((1, "L", gray), (2, "LA", pixels[:, :, :2]), (4, "RGBA", four)):
        image = Image.frombytes(mode, (36, 24), expected.tobytes())
        image.save(tmp_path / "image.png")
        for each in (image, tmp_path / "image.png"):
            assert np.array_equal(image_pixels(each, channels), expected)
    indexed = Image.frombytes("P", (2, 1), b"\0\1")
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.save(tmp_path / "indexed.png", transparency=b"\x07\xff")
    assert image_pixels(tmp_path / "indexed.png", 4).tolist() == [[[10, 20, 30, 7], [40, 50, 60, 255]]]


def png_of_16_bits(path: Path) -> None:
    """Write a 2x1 RGB image, which Pillow can't write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(b"\0" + bytes(range(12)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def test_what_is_refused(pixels: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    cases: list[tuple[Any, str]] = [
        (tmp_path / "none.png", r"none\.png: no such file"),
        (tmp_path / "text.jpg", r"text\.jpg: not an image that Pillow can read: is text"),
        (tmp_path / "cut.png", r"cut\.png: can't be read as an image: this PNG image is damaged or incomplete \("),
        (tmp_path, r"is a folder; pass an image in it"),
        (pixels.astype(np.float32), r"\(H, W, 3\) uint8, 0\.\.255, or uint16, .* got float32; convert with"),
        (pixels[:, :, :2], r"got the shape \(24, 36, 2\)"),
        (pixels[:0], r"got the shape \(0, 36, 3\)"),
        (pixels[None], r"got the shape \(1, 24, 36, 3\); pass one image at a time, or a batch as a tensor"),
        (pixels.transpose(2, 0, 1), r"got the shape \(3, 24, 36\); .* with image\.transpose\(1, 2, 0\)"),
        (np.dstack([pixels, pixels[:, :, :1]]), r"got the shape \(24, 36, 4\); .* with image\[:, :, :3\]"),
        (None, r"expected a path, bytes, .*, got NoneType"),
    ]
    for image, message in cases:
        with pytest.raises(segnets.ImageError, match=message) as raised:
            image_pixels(image)
        assert "\n" not in str(raised.value)
    with pytest.raises(segnets.ImageError, match=r"has 3 channels, but the network takes 4; pass an array \(H, W, 4\)"):
        image_pixels(Image.fromarray(pixels), channels=4)


def test_read_only_pixels_are_segmented_without_a_warning() -> None:
    model = segnets.create_model("lraspp_mobilenet_v3_small", num_classes=2).eval()
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels.flags.writeable = False
    assert segnets.segment(model, pixels, segnets.Preprocessing(resize="none")).shape == (8, 8)
