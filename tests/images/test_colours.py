"""Depths, modes, transparency and colour profiles become 8-bit RGB or gray by the rules of `read_image`."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, features

import segnets
from segnets.images import ImageData, _profiles, read_image

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(values: npt.NDArray[np.uint16], colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of 16 bits per channel; Pillow writes gray ones only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(values: npt.NDArray[np.integer], bits: int, photometric: int) -> bytes:
    """Return an uncompressed TIFF with several channels of 16 bits, or one of 12 packed bits."""
    height, width, channels = values.shape
    if bits == 12:
        digits = "".join(f"{value:03x}" for value in values.ravel())
        data = bytes.fromhex(digits)
    else:
        data = values.astype("<u2").tobytes()
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric)]
    entries += [(273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data))]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + b"\0\0\0\0"


def pnm(values: npt.NDArray[Any], largest: int) -> bytes:
    kind = b"P6" if values.ndim == 3 else b"P5"
    data = values.astype(">u2" if largest > 255 else np.uint8).tobytes()
    return b"%s\n# comment\n%d %d\n%d\n" % (kind, values.shape[1], values.shape[0], largest) + data


def test_16_bits_are_scaled_and_never_clipped(pixels: Pixels) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (24, 36, 3), dtype=np.uint16)
    values[0, :4, 0] = 0, 255, 256, 65535
    gray = values[:, :, 0]
    pair, four = values[:, :, :2], np.dstack([values, gray])
    image = Image.fromarray(gray)
    cases: list[tuple[Any, npt.NDArray[np.uint16], int]] = [
        (png(gray, 0), gray, 1),
        (png(values, 2), values, 3),
        (png(pair, 4), gray, 1),
        (png(pair, 4), pair, 2),
        (png(four, 6), values, 3),
        (png(four, 6), four, 4),
        (image, gray, 1),
        (encoded(image, "PNG"), gray, 1),
        (encoded(image, "TIFF"), gray, 1),
        (encoded(image, "TIFF", compression="tiff_lzw"), gray, 1),
        (encoded(Image.fromarray(gray.astype(">u2")), "TIFF"), gray, 1),
        (encoded(Image.fromarray(gray.astype(">u2")), "TIFF", compression="tiff_lzw"), gray, 1),
        (encoded(Image.fromarray(gray), "TIFF", tiffinfo={262: 0}), 65535 - gray, 1),
        (encoded(image, "JPEG2000", irreversible=False), gray, 1),
        (tiff(values, 16, 2), values, 3),
        (tiff(gray[:, :, None] >> 4, 12, 1), gray, 1),
        (pnm(gray, 65535), gray, 1),
        (pnm(values, 65535), values, 3),
        (pnm(values >> 4, 4095), values, 3),
        (gray, gray, 1),
        (values, values, 3),
        (values.astype(">u2"), values, 3),
    ]
    for number, (source, expected, channels) in enumerate(cases):
        read = read_image(source, channels)
        assert np.array_equal(read.pixels, expected.reshape(24, 36, -1) >> 8), number
        assert [each for each in read.notices if "were scaled to 0..255" in each], number
        exact = expected.reshape(24, 36, -1) / 257
        assert np.abs(read.pixels - exact).max() <= 1
    for factor in (256, 257):  # the two ways to widen 8 bits
        assert np.array_equal(read_image(pixels.astype(np.uint16) * factor).pixels, pixels)
    assert np.array_equal(read_image(png(gray, 0)).pixels, np.stack([gray >> 8] * 3, axis=2))


def test_dark_images_of_16_bits_are_noted() -> None:
    for source in (np.full((2, 3), 4095, np.uint16), png(np.full((2, 3, 3), 4095, np.uint16), 2)):
        assert read_image(source).notices == (
            "its values 0..65535 were scaled to 0..255. They are dark: none is above 15 of 255",
        )


@pytest.mark.parametrize("largest", [1, 15, 100, 254, 256, 1000, 4095, 65534])
def test_ppm_files_with_other_maxima(largest: int) -> None:
    values = np.random.default_rng(2).integers(0, largest + 1, (8, 9, 3))
    values[0, 0] = 0, largest, largest // 2
    result = read_image(pnm(values, largest)).pixels
    assert result[0, 0, :2].tolist() == [0, 255]
    assert np.abs(result - values * 255 / largest).max() <= (0.5 if largest < 256 else 1)
    if largest < 256:
        with Image.open(io.BytesIO(pnm(values, largest))) as opened:
            assert np.array_equal(result, np.asarray(opened))
    with pytest.raises(segnets.ImageError, match="image file is truncated"):
        read_image(pnm(values, largest)[:-3])


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("F", (3, 2)), "floating point"),
        (Image.new("I", (3, 2)), "32-bit or signed integers"),
    ],
    ids=["float", "int32"],
)
def test_values_of_unknown_range_are_refused(image: Image.Image, kind: str) -> None:
    for source in (image, encoded(image, "TIFF")):
        with pytest.raises(segnets.ImageError, match=rf"has pixel values of unknown range \({kind}\).*Scale them to"):
            read_image(source)


def test_tiff_files_without_a_mode_are_described() -> None:
    data = tiff(np.zeros((2, 3, 5), np.uint16), 16, 1)
    with pytest.raises(segnets.ImageError, match=r"is a TIFF of 3x2 pixels with 5 channels of 16 bits; save it with"):
        read_image(data)
    bits = struct.pack("<HHII", 258, 3, 1, 16)
    assert bits in data
    with pytest.raises(segnets.ImageError, match="is a TIFF image, damaged, incomplete or of an unusual kind"):
        read_image(data.replace(bits, struct.pack("<HHI", 258, 2, 2) + b"\xaa\n\0\0"))


def test_every_mode_of_8_bits_equals_pillows(pixels: Pixels) -> None:
    picture = Image.fromarray(pixels)
    gray = np.asarray(picture.convert("L"))
    assert np.array_equal(read_image(picture, 1).pixels[:, :, 0], gray)
    for mode in ("1", "L", "P", "YCbCr", "HSV", "RGBX"):
        image = picture.convert(mode)
        assert np.array_equal(read_image(image).pixels, np.asarray(image.convert("RGB"))), mode
        assert read_image(image).notices == (), mode
    for compression in ("raw", "tiff_lzw", "group4"):
        image = picture.convert("1")
        for white in (0, 1):
            data = encoded(image, "TIFF", compression=compression, tiffinfo={262: white})
            assert np.array_equal(read_image(data, 1).pixels[:, :, 0], np.asarray(image) * np.uint8(255))


def test_transparency_is_dropped_with_a_notice_if_it_shows(pixels: Pixels) -> None:
    alpha = np.full((24, 36), 255, np.uint8)
    picture, gray = Image.fromarray(pixels), Image.fromarray(pixels[:, :, 0])
    for hidden in (0, 5):
        alpha[0, :hidden] = 7
        notices = ("its transparency was dropped; 5 of 864 pixels are not opaque",) if hidden else ()
        mask = Image.fromarray(alpha)
        for image, channels in ((picture, 3), (gray, 1)):
            both = image.copy()
            both.putalpha(mask)
            for source in (both, encoded(both, "PNG"), encoded(both, "TIFF")):
                read = read_image(source, channels)
                assert np.array_equal(read.pixels.squeeze(), np.asarray(image))
                assert read.notices == notices
    indexed = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3), "P")
    indexed.putpalette(range(18))
    expected = np.arange(18).reshape(2, 3, 3)
    for transparency, count in ((b"\x07\xff\x80", 2), (3, 1), (b"\xff" * 6, 0)):
        read = read_image(encoded(indexed, "PNG", transparency=transparency))
        assert np.array_equal(read.pixels, expected)
        assert len(read.notices) == bool(count)
        assert not count or f"{count} of 6 pixels" in read.notices[0]


def test_one_transparent_colour(pixels: Pixels) -> None:
    values = np.full((2, 3), 70 << 8, np.uint16)
    values[0, 0] = 9
    read = read_image(png(values, 0, (b"tRNS", struct.pack(">H", 9))))
    assert "its transparency was dropped; 1 of 6 pixels are not opaque" in read.notices
    key = tuple(int(value) for value in pixels[0, 0])
    data = encoded(Image.fromarray(pixels), "PNG", transparency=key)
    assert np.array_equal(read_image(data).pixels, pixels)
    assert "1 of 864 pixels" in read_image(data).notices[0]


def test_cmyk_and_ycck_and_lab(pixels: Pixels) -> None:
    smooth = np.asarray(Image.fromarray(pixels[:3, :3]).resize((36, 24), Image.Resampling.BICUBIC))
    cmyk = Image.fromarray(smooth).convert("CMYK")
    data = encoded(cmyk, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in data
    ycck = data.replace(b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2")  # the same bytes, decoded as YCCK
    assert ycck != data
    for source, tolerance in ((cmyk, 0), (encoded(cmyk, "TIFF"), 0), (data, 6)):
        read = read_image(source)
        assert np.abs(read.pixels.astype(int) - smooth).max() <= tolerance
        assert read.notices == ("its CMYK colours were converted by a simple formula, without a colour profile",)
    with Image.open(io.BytesIO(ycck)) as opened:
        assert np.array_equal(read_image(ycck).pixels, np.asarray(opened.convert("RGB")))
    assert not np.array_equal(read_image(ycck).pixels, read_image(data).pixels)
    # White, red and black; Pillow adds 128 to the last two channels.
    channels = (255, 138, 0), (128, 128 + 81, 128), (128, 128 + 70, 128)
    lab = Image.merge("LAB", [Image.frombytes("L", (3, 1), bytes(channel)) for channel in channels])
    expected = [[255, 255, 255], [255, 0, 0], [0, 0, 0]]
    assert b"\xff\0\0\x8a\x51\x46\0\0\0" in encoded(lab, "TIFF")
    for source in (lab, encoded(lab, "TIFF")):
        assert np.abs(read_image(source).pixels[0].astype(int) - expected).max() <= 6


def matrix_profile(name: str, primaries: list[float], gamma: float, space: bytes = b"RGB ") -> bytes:
    """Return a profile of primaries (X, Y, Z each, at D50) and a gamma; for gray, of the gamma alone."""

    def fixed(values: list[float]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    text = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + b"\0" + b"\0" * 79
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    tags = {b"desc": text, b"wtpt": b"XYZ \0\0\0\0" + fixed([0.9642, 1, 0.8249])}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for index, letter in enumerate(b"rgb"):
            tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(primaries[3 * index : 3 * index + 3])
            tags[bytes([letter]) + b"TRC"] = curve
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    header = struct.pack(">I", start + len(body)) + b"\0" * 4 + b"\2\x10\0\0" + b"mntr" + space + b"XYZ " + b"\0" * 12
    header += b"acsp" + b"\0" * 28 + fixed([0.9642, 1, 0.8249]) + b"\0" * 48
    return header + table + body


ADOBE = [0.60974, 0.31111, 0.01947, 0.20528, 0.62567, 0.06087, 0.14919, 0.06322, 0.74457]
needs_lcms = pytest.mark.skipif(not features.check("littlecms2"), reason="Pillow without littleCMS")


def adobe_to_srgb(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Compute the conversion by the definitions of both spaces."""
    xyz = (pixels / 255) ** (563 / 256) @ np.array(ADOBE).reshape(3, 3)
    srgb_to_xyz = np.array([[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.7141]])
    linear = np.clip(xyz @ np.linalg.inv(srgb_to_xyz), 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    result: npt.NDArray[np.float64] = 255 * curved
    return result


@needs_lcms
def test_colours_of_another_profile_become_srgb(pixels: Pixels) -> None:
    profile = matrix_profile("Adobe\nRGB", ADOBE, 563 / 256)
    image = Image.fromarray(pixels)
    expected = adobe_to_srgb(pixels)
    for kind in ("PNG", "TIFF"):
        read = read_image(encoded(image, kind, icc_profile=profile))
        assert np.abs(read.pixels - expected).max() <= 2
        assert np.abs(read.pixels.astype(int) - pixels).max() > 20
        assert read.notices == (r"its colours were converted from the profile 'Adobe\\nRGB' to sRGB",)
    image.putalpha(200)
    assert np.array_equal(read_image(encoded(image, "PNG", icc_profile=profile)).pixels, read.pixels)
    indexed = image.convert("P")
    expected = adobe_to_srgb(np.asarray(indexed.convert("RGB")))
    assert np.abs(read_image(encoded(indexed, "PNG", icc_profile=profile)).pixels - expected).max() <= 2
    assert np.array_equal(read_image(encoded(image, "PNG", icc_profile=profile), 4).pixels, np.asarray(image))


@needs_lcms
def test_gray_profiles(pixels: Pixels) -> None:
    gray = pixels[:, :, 0]
    for profile in (matrix_profile("Linear", [], 1, b"GRAY"), matrix_profile("Linear", ADOBE, 1)):
        data = encoded(Image.fromarray(gray), "PNG", icc_profile=profile)
        linear = gray / 255
        expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        for channels in (1, 3):
            assert np.abs(read_image(data, channels).pixels - expected[:, :, None]).max() <= 2


@needs_lcms
def test_profiles_without_effect(pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray, image = Image.fromarray(pixels[:, :, 0]), Image.fromarray(pixels)

    def read(picture: Image.Image, profile: bytes) -> ImageData:
        result = read_image(encoded(picture, "PNG", icc_profile=profile))
        assert np.array_equal(result.pixels, np.asarray(picture.convert("RGB")))
        return result

    assert read(image, srgb).notices == read(gray, srgb).notices == ()
    (notice,) = read(image, matrix_profile("Gray", [], 1, b"GRAY")).notices
    assert notice == "its colour profile 'Gray' was ignored, as it is for L images"
    (notice,) = read(image, srgb[:200]).notices
    assert notice.startswith("its colour profile was ignored: it is damaged (")
    (notice,) = read(image, matrix_profile("X", ADOBE, 1, b"HSV ")).notices
    assert notice == "its colour profile was ignored: it is for the colour space 'HSV '"
    monkeypatch.setattr(_profiles, "_MAX_BYTES", 100)
    assert read(image, srgb).notices == (f"its colour profile of {len(srgb)} bytes was ignored",)
    monkeypatch.undo()
    _profiles._conversion.cache_clear()

    def missing(*_: object) -> None:
        raise ImportError

    monkeypatch.setattr(ImageCms, "ImageCmsProfile", missing)
    assert read(image, srgb).notices == ("its colour profile was ignored: this Pillow has no littleCMS",)
    _profiles._conversion.cache_clear()


@needs_lcms
def test_threads_read_the_same(pixels: Pixels) -> None:
    large = np.tile(pixels, (8, 8, 1))
    sources = [
        encoded(Image.fromarray(large), "PNG", icc_profile=matrix_profile("Adobe", ADOBE, 563 / 256)),
        encoded(Image.fromarray(large), "JPEG"),
        encoded(Image.fromarray(large[:, :, 0].astype(np.uint16) << 8), "TIFF"),
    ]
    expected = [read_image(source).pixels for source in sources]
    _profiles._conversion.cache_clear()
    wrong: list[int] = []

    def work() -> None:
        for _ in range(3):
            for number, source in enumerate(sources):
                if not np.array_equal(read_image(source).pixels, expected[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
