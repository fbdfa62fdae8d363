"""PNG files written row by row, read back by Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from segnets.errors import ImageError
from segnets.inference.writers.png import PngRows, write_png
from segnets.palettes import voc_palette

RNG = np.random.default_rng(0)
SIZES = [(1, 1), (3, 5), (257, 1), (1, 300_000), (700, 1021)]  # the last ones take several portions


def encoded(image: npt.NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    write_png(file, image, **options)
    return file.getvalue()


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Read the chunks of a PNG file, and check their checksums."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + content),)
        found.append((kind, content))
        at += length + 12
    assert at == len(data)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_pillow_reads_every_kind(size: tuple[int, int]) -> None:
    mask = np.repeat(RNG.integers(0, 21, (size[0], 1), dtype=np.uint8), size[1], axis=1)
    mask[:: size[0] // 2 + 1] = RNG.integers(0, 21, (len(mask[:: size[0] // 2 + 1]), size[1]))
    palette = voc_palette(21)
    with Image.open(io.BytesIO(encoded(mask, palette=palette))) as indexed:
        assert (indexed.mode, indexed.size) == ("P", size[::-1])
        assert np.array_equal(np.array(indexed), mask)
        assert np.array_equal(np.array(indexed.convert("RGB")), np.array(palette, np.uint8)[mask])
    gray = RNG.integers(0, 256, size, dtype=np.uint8)
    deep = RNG.integers(0, 65536, size, dtype=np.uint16)
    colours = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    for image, mode in ((gray, "L"), (deep, "I;16"), (colours, "RGB")):
        with Image.open(io.BytesIO(encoded(image))) as opened:
            assert opened.mode == mode
            assert np.array_equal(np.array(opened), image)


def test_the_parts_of_the_file() -> None:
    mask = RNG.integers(0, 3, (400, 1000), dtype=np.uint8)
    parts = chunks(encoded(mask, palette=[(1, 2, 3), (4, 5, 6), (7, 8, 9)]))
    kinds = [kind for kind, _ in parts]
    assert kinds[:2] == [b"IHDR", b"PLTE"]
    assert kinds[-1] == b"IEND"
    assert {*kinds[2:-1]} == {b"IDAT"}
    assert len(kinds) > 4, "the data are written as they come"
    assert parts[0][1] == struct.pack(">IIBBBBB", 1000, 400, 8, 3, 0, 0, 0)
    assert parts[1][1] == bytes(range(1, 10))
    assert len(zlib.decompress(b"".join(data for _, data in parts[2:-1]))) == 400 * 1001


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_bytes_do_not_depend_on_how_the_rows_come(dtype: type[np.integer[Any]]) -> None:
    image = RNG.integers(0, 4, (3000, 211)).astype(dtype)
    expected = encoded(image)
    for sizes in ([1] * 3000, [7] * 429, [2000, 1500]):
        file = io.BytesIO()
        writer = PngRows(file, *image.shape, bits=8 * image.itemsize)
        at = 0
        for size in sizes:
            writer.rows(image[at : at + size])
            at += size
        writer.finish()
        assert file.getvalue() == expected
    assert encoded(np.asfortranarray(image)) == expected
    assert encoded(image) == expected


def test_what_is_refused() -> None:
    def rows(given: npt.NDArray[Any], finish: bool = True, **options: Any) -> None:
        writer = PngRows(io.BytesIO(), 4, 5, **options)
        writer.rows(given)
        if finish:
            writer.finish()

    byte = np.zeros((4, 5), np.uint8)
    cases: list[tuple[Any, str]] = [
        (lambda: rows(byte[:3]), r"PNG of 4 rows: got 3"),
        (lambda: rows(np.zeros((5, 5), np.uint8)), r"PNG of 4 rows: got 5"),
        (lambda: rows(byte[:, :4]), r"shape \(4, 4\), uint8: expected \(n, 5\), uint8"),
        (lambda: rows(byte.astype(np.uint16)), r"uint16: expected \(n, 5\), uint8"),
        (lambda: rows(byte, bits=16), r"uint8: expected \(n, 5\), uint16"),
        (lambda: rows(byte, channels=3), r"expected \(n, 5, 3\), uint8"),
        (lambda: rows(byte, palette=voc_palette(257)), r"257 colours: expected at most 256"),
        (lambda: rows(byte, bits=16, palette=voc_palette(2)), r"1 channels of 16 bits"),
        (lambda: PngRows(io.BytesIO(), 0, 5), r"PNG of 0x5: expected sides of 1"),
        (lambda: PngRows(io.BytesIO(), 4, 1 << 31), r"expected sides of 1"),
        (lambda: encoded(byte.astype(np.int16)), r"PNG of shape \(4, 5\), int16"),
        (lambda: encoded(np.zeros((4, 5, 2), np.uint8)), r"PNG with 2 channels"),
    ]
    for call, message in cases:
        with pytest.raises(ImageError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
