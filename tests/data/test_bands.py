"""Images of 1 to 16 bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from segnets.data import open_data
from segnets.data.check import check_data
from segnets.errors import DataError
from tests.data.common import mask_of


def write_bands(folder: Path, pixels: Any, channels: int, **options: Any) -> Path:
    for kind in ("images", "masks"):
        (folder / "train" / kind).mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "train/images/a.tif", pixels, **options)
    Image.fromarray(mask_of(0)).save(folder / "train/masks/a.png")
    (folder / "dataset.toml").write_text(f'classes = ["sky", "road", "car"]\nchannels = {channels}\n')
    return folder


def bands(channels: int, dtype: type = np.uint8) -> Any:
    return np.random.default_rng(channels).integers(0, np.iinfo(dtype).max, (32, 40, channels), dtype=dtype)


CONTIGUOUS: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
LAYOUTS: dict[str, Any] = {
    "samples": lambda pixels: (pixels, CONTIGUOUS),
    "planes": lambda pixels: (np.moveaxis(pixels, 2, 0), {"photometric": "minisblack", "planarconfig": "separate"}),
    "pages": lambda pixels: (np.moveaxis(pixels, 2, 0), {"photometric": "minisblack"}),
    "unstated": lambda pixels: (pixels, {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [2, 4, 5, 16])
def test_layouts(layout: str, channels: int, tmp_path: Path) -> None:
    pixels = bands(channels)
    stored, options = LAYOUTS[layout](pixels)
    data = open_data(write_bands(tmp_path, stored, channels, **options))
    pair = data.read(data.samples("train")[0])
    assert pair.image.flags.c_contiguous
    np.testing.assert_array_equal(pair.image, pixels)
    assert check_data(data).ok


@pytest.mark.parametrize("channels", [1, 3])
def test_one_and_three_bands_are_gray_and_colour(channels: int, tmp_path: Path) -> None:
    pixels = bands(channels)
    stored = pixels if channels == 3 else pixels[:, :, 0]
    data = open_data(write_bands(tmp_path, stored, channels))
    np.testing.assert_array_equal(data.read(data.samples("train")[0]).image, pixels)


def test_16_bits_lose_the_low_ones_with_a_warning(tmp_path: Path) -> None:
    pixels = bands(6, np.uint16)
    data = open_data(write_bands(tmp_path, pixels, 6, **CONTIGUOUS))
    np.testing.assert_array_equal(data.read(data.samples("train")[0]).image, (pixels >> 8).astype(np.uint8))
    assert "a.tif: its values 0..65535 were scaled to 0..255" in check_data(data).warnings[0]
    data = open_data(write_bands(tmp_path, pixels >> 4, 6, **CONTIGUOUS))
    assert "They are dark: none is above 15 of 255" in check_data(data).warnings[0]


@pytest.mark.parametrize(
    ("pixels", "channels", "message"),
    [
        (bands(5), 4, r"a\.tif: has 32 x 40 x 5 values \(YXS\), but the data set has 4 channels. Correct channels"),
        (bands(5).astype(np.float32), 5, r"a\.tif: has dtype float32, whose range is unknown"),
        (bands(4)[:, :, 0], 4, r"a\.tif: has 32 x 40 x 1 values"),
    ],
)
def test_other_bands_and_values_are_refused(pixels: Any, channels: int, message: str, tmp_path: Path) -> None:
    data = open_data(write_bands(tmp_path, pixels, channels, **(CONTIGUOUS if pixels.ndim == 3 else {})))
    with pytest.raises(DataError, match=message):
        data.read(data.samples("train")[0])
    assert len(check_data(data).errors) == 1


def test_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = open_data(write_bands(tmp_path, bands(5), 5, **CONTIGUOUS))
    path = tmp_path / "train/images/a.tif"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"a\.tif: can't be read as a TIFF"):
        data.read(data.samples("train")[0])
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tif: no such file"):
        data.read(data.samples("train")[0])
    assert capsys.readouterr().err == ""


def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    data = open_data(write_bands(tmp_path, bands(4), 4, **CONTIGUOUS))
    path = tmp_path / "train/images/a.tif"
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for name in ("ImageWidth", "ImageLength"):
            tag = file.pages[0].tags[name]
            content[tag.valueoffset : tag.valueoffset + 2] = (60000).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match="values; at most 715,827,880 are decoded"):
        data.read(data.samples("train")[0])
