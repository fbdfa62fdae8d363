"""Windows of images: equal to the image decoded whole, and in bounded memory."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from PIL import Image, ImageCms
from rasterio._env import get_gdal_config

from segnets.errors import ImageError
from segnets.images import ImageData, read_image
from segnets.inference.rasters import MIN_CACHE, Geo, _Pixels, _Windows, gdal, georeference, open_raster

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (100, 150, 3), dtype=np.uint8)
TRANSFORM = (0.5, 0.0, 600_000.0, 0.0, -0.5, 5_300_000.0)
WINDOWS = [(0, 100, 0, 150), (0, 1, 0, 1), (99, 100, 149, 150), (13, 77, 31, 120)]


def geotiff(path: Path, bands: npt.NDArray[Any], **options: Any) -> Path:
    """Write bands (n, H, W) as TIFF."""
    count, height, width = bands.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=count, dtype=bands.dtype, **options
        ) as file:
            file.write(bands)
    return path


def check_windows(path: Path, channels: int, kind: type[Any]) -> None:
    whole = read_image(path, channels).pixels
    with open_raster(path, channels) as raster:
        assert type(raster) is kind
        assert (raster.height, raster.width, raster.channels) == whole.shape
        for top, bottom, left, right in WINDOWS:
            window = raster.read(top, bottom, left, right)
            assert window.dtype == np.uint8
            assert np.array_equal(window, whole[top:bottom, left:right])


@pytest.mark.parametrize(
    "options",
    [
        {"tiled": True, "blockxsize": 32, "blockysize": 48, "compress": "deflate"},
        {"blockysize": 7, "compress": "lzw", "predictor": 2},
        {"interleave": "band", "compress": "deflate"},
        {"BIGTIFF": "YES"},
        {"blockysize": 100},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("channels", [1, 3])
def test_windows_equal_the_image_decoded_whole(tmp_path: Path, options: dict[str, Any], channels: int) -> None:
    path = geotiff(tmp_path / "image.tif", COLOURS.transpose(2, 0, 1), **options)
    check_windows(path, channels, _Windows)


def test_jpeg_in_tiff(tmp_path: Path) -> None:
    """Pillow and GDAL enlarge the colours of JPEG by different filters."""
    smooth = np.array(Image.fromarray(COLOURS).resize((10, 8)).resize((150, 100), Image.Resampling.BICUBIC))
    options = {"compress": "jpeg", "photometric": "YCBCR", "tiled": True, "blockxsize": 64, "blockysize": 64}
    path = geotiff(tmp_path / "image.tif", smooth.transpose(2, 0, 1), **options)
    with open_raster(path) as raster:
        assert isinstance(raster, _Windows)
        difference = np.abs(raster.read(13, 77, 31, 120).astype(int) - read_image(path).pixels[13:77, 31:120])
    assert difference.mean() < 1
    assert difference.max() < 20


def test_other_bands_and_bits(tmp_path: Path) -> None:
    gray, deep = COLOURS[:, :, :1], RNG.integers(0, 65536, (100, 150, 3), dtype=np.uint16)
    Image.fromarray(gray[:, :, 0]).save(tmp_path / "gray.tif")
    Image.fromarray(np.dstack([COLOURS, gray])).save(tmp_path / "rgba.tif", compression="tiff_lzw")
    Image.fromarray(deep[:, :, 0]).save(tmp_path / "deep.tif")
    for name in ("gray.tif", "rgba.tif", "deep.tif"):
        for channels in (1, 3):
            check_windows(tmp_path / name, channels, _Windows)
    check_windows(tmp_path / "rgba.tif", 4, _Windows)
    geotiff(tmp_path / "deep3.tif", deep.transpose(2, 0, 1), photometric="RGB")
    with open_raster(tmp_path / "deep3.tif") as raster:
        assert np.array_equal(raster.read(5, 50, 7, 70), (deep >> 8)[5:50, 7:70])
        assert raster.notices == ("its values 0..65535 were scaled to 0..255",)
    geotiff(tmp_path / "dark.tif", deep.transpose(2, 0, 1) >> 4, photometric="RGB", nbits=12)
    with open_raster(tmp_path / "dark.tif") as raster:
        assert np.array_equal(raster.read(0, 9, 0, 9), (deep >> 8)[:9, :9])
        assert raster.notices == ("its values 0..4095 were scaled to 0..255",)
    bands = RNG.integers(0, 256, (5, 100, 150), dtype=np.uint8)
    five = geotiff(tmp_path / "five.tif", bands, photometric="MINISBLACK")
    with open_raster(five, 5) as raster:
        assert np.array_equal(raster.read(1, 20, 3, 50), bands.transpose(1, 2, 0)[1:20, 3:50])
    with pytest.raises(
        ImageError, match=r"five\.tif: has 5 bands, but the network takes 3 channels; .* -b 1 -b 2 -b 3"
    ):
        open_raster(five)
    near = geotiff(tmp_path / "near.tif", bands[:4], photometric="RGB", alpha="NO")
    with open_raster(near) as raster:
        assert np.array_equal(raster.read(0, 100, 0, 150), bands[:3].transpose(1, 2, 0))
        assert raster.notices == ("only the red, green and blue bands of its 4 bands were read",)


def test_dark_data_of_16_bits_are_reported(tmp_path: Path) -> None:
    dark = RNG.integers(0, 4096, (3, 100, 150), dtype=np.uint16)
    path = geotiff(tmp_path / "dark.tif", dark, photometric="RGB")
    with open_raster(path) as raster:
        raster.read(0, 100, 0, 150)
        assert raster.notices == read_image(dark.transpose(1, 2, 0)).notices
        assert "They are dark: none is above 15" in raster.notices[0]


def test_colour_profiles(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(COLOURS).save(tmp_path / "lab.tif", icc_profile=profile)
    check_windows(tmp_path / "lab.tif", 3, _Windows)


def test_rare_kinds_are_decoded_whole(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(tmp_path / "turned.tif", exif=exif)
    indexed = Image.fromarray(COLOURS).quantize(50)
    indexed.save(tmp_path / "palette.tif")
    indexed.convert("1").save(tmp_path / "bits.tif", compression="group4")
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(COLOURS[:, :, 0]).save(tmp_path / "white.tif", tiffinfo={262: 0})
    for name in ("turned.tif", "palette.tif", "bits.tif", "cmyk.tif", "white.tif"):
        whole = read_image(tmp_path / name).pixels
        with open_raster(tmp_path / name) as raster:
            assert isinstance(raster, _Pixels), name
            assert np.array_equal(raster.read(0, raster.height, 0, raster.width), whole)
    Image.fromarray(COLOURS).save(tmp_path / "image.png")
    for source in (tmp_path / "image.png", str(tmp_path / "image.png"), COLOURS, ImageData(COLOURS)):
        with open_raster(source) as raster:
            assert np.array_equal(raster.read(3, 30, 2, 20), COLOURS[3:30, 2:20])
    with pytest.raises(ImageError, match="15,000 in total, but at most 14,999 are decoded"):
        open_raster(tmp_path / "image.png", max_pixels=14_999)


def test_georeference(tmp_path: Path) -> None:
    place = {"crs": "EPSG:25832", "transform": rasterio.Affine(*TRANSFORM)}
    path = geotiff(tmp_path / "geo.tif", COLOURS.transpose(2, 0, 1), **place)
    with open_raster(path) as raster:
        assert isinstance(raster.geo, Geo)
        assert raster.geo.transform == TRANSFORM
        assert rasterio.crs.CRS.from_wkt(raster.geo.crs) == rasterio.crs.CRS.from_epsg(25832)
        assert georeference(path) == raster.geo
    palette = geotiff(tmp_path / "palette.tif", COLOURS[:, :, 0][None] % 4, photometric="PALETTE", **place)
    with rasterio.open(palette, "r+") as file:
        file.write_colormap(1, {i: (i, 2 * i, 3 * i, 255) for i in range(4)})
    with open_raster(palette) as raster:
        assert isinstance(raster, _Pixels)
        assert raster.geo is not None
        assert np.array_equal(raster.read(0, 9, 0, 9)[:, :, 1], COLOURS[:9, :9, 0] % 4 * 2)
    with open_raster(geotiff(tmp_path / "plain.tif", COLOURS.transpose(2, 0, 1))) as raster:
        assert raster.geo is None
    Image.fromarray(COLOURS).save(tmp_path / "image.png")
    path.with_name("cut.tif").write_bytes(path.read_bytes()[:100])
    for name in ("plain.tif", "image.png", "cut.tif", "none.tif", "."):
        assert georeference(tmp_path / name) is None


def test_what_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiff = COLOURS.transpose(2, 0, 1)
    whole = geotiff(tmp_path / "image.tif", tiff, compress="deflate", blockysize=10)
    data = whole.read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
    (tmp_path / "stub.tif").write_bytes(data[:20])
    with pytest.raises(ImageError, match=r"stub\.tif: can't be read as an image|stub\.tif: not an image"):
        open_raster(tmp_path / "stub.tif")
    with (
        pytest.raises(ImageError, match=r"cut\.tif: .*damaged or incomplete") as raised,
        open_raster(tmp_path / "cut.tif") as raster,
    ):
        raster.read(0, 100, 0, 150)
    assert "\n" not in str(raised.value)
    geotiff(tmp_path / "floats.tif", tiff.astype(np.float32))
    with pytest.raises(ImageError, match=r"floats\.tif: "):
        open_raster(tmp_path / "floats.tif")
    one = geotiff(tmp_path / "strip.tif", tiff, compress="deflate", blockysize=100)
    message = r"strip\.tif: is stored in blocks of 100 rows\. Each block of 15,000 pixels .* the limit is 9,999"
    with pytest.raises(ImageError, match=message):
        open_raster(one, max_pixels=9_999)
    with pytest.raises(ImageError, match="no such file"):
        open_raster(tmp_path / "none.tif")
    with open_raster(whole, max_pixels=9_999) as raster:  # windows have no limit
        assert raster.read(0, 2, 0, 3).shape == (2, 3, 3)
    assert capfd.readouterr() == ("", "")


def test_gdal_keeps_few_blocks() -> None:
    """A tall image would otherwise fill 5 % of the machine's memory; the full tests measure it."""
    before = get_gdal_config("GDAL_CACHEMAX")
    for size, expected in ((MIN_CACHE, 64 << 20), (1 << 40, (1 << 31) - 1)):
        with gdal(size):
            assert get_gdal_config("GDAL_CACHEMAX") == expected
    assert get_gdal_config("GDAL_CACHEMAX") == before


def test_without_rasterio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"crs": "EPSG:25832", "transform": rasterio.Affine(*TRANSFORM)}
    path = geotiff(tmp_path / "geo.tif", COLOURS.transpose(2, 0, 1), **place)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with open_raster(path) as raster:
        assert np.array_equal(raster.read(0, 100, 0, 150), COLOURS)
        assert raster.geo is None
        assert georeference(path) is None
        assert raster.notices == (
            "its georeference was ignored, because rasterio is missing (pip install 'segnets[geo]')",
        )
    with pytest.raises(ImageError, match=r"geo\.tif: has 150x100 pixels, .* pip install 'segnets\[geo\]'"):
        open_raster(path, max_pixels=9_999)
