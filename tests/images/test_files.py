"""Sources of images, orientation, sizes, limits, and files that are none."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import struct
import subprocess
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin

import segnets
from segnets.images import ImageData, _pixels, _reading, image_size, read_image

Pixels = npt.NDArray[np.uint8]
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(segnets.ImageError) as raised:
        read_image(source, **options)
    message = str(raised.value)
    assert message.isprintable()
    return message


def test_every_source_gives_the_same_pixels(pixels: Pixels, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(pixels), "PNG")
    path = tmp_path / "a photo 🌳.jpg"  # the suffix is wrong, and the content counts
    path.write_bytes(data)
    stream = io.BytesIO(data)
    stream.seek(7)
    cases: list[Any] = [path, str(path), data, bytearray(data), memoryview(data), stream, Image.open(io.BytesIO(data))]
    cases += [pixels, torch.from_numpy(pixels), torch.from_numpy(pixels.astype(np.uint16) * 257)]
    for source in cases:
        read = read_image(source)
        assert isinstance(read, ImageData)
        assert np.array_equal(read.pixels, pixels)
        assert read.pixels.dtype == np.uint8
        assert read.pixels.flags.c_contiguous
    with path.open("rb") as file:
        assert np.array_equal(read_image(file).pixels, pixels)
        assert not file.closed
    ends = os.pipe()
    with os.fdopen(ends[1], "wb") as writer, os.fdopen(ends[0], "rb") as reader:
        writer.write(data)
        writer.close()
        assert np.array_equal(read_image(reader).pixels, pixels)
    gray = pixels[:, :, 0]
    for source in (gray, gray[:, :, None], torch.from_numpy(gray.copy()), torch.from_numpy(gray[:, :, None].copy())):
        assert np.array_equal(read_image(source).pixels, np.stack([gray] * 3, axis=2))
        assert np.array_equal(read_image(source, 1).pixels, gray[:, :, None])
    assert read_image(pixels).pixels is pixels


def test_other_sources_are_refused(pixels: Pixels, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    assert "is opened as text; open it in binary mode" in refusal(io.StringIO("x"))
    with (tmp_path / "photo.png").open() as text:
        assert "photo.png: is opened as text" in refusal(text)
    chw = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    assert "move the channels last with image.transpose(1, 2, 0), or permute(1, 2, 0) of a tensor" in refusal(chw)
    assert "got float32; convert with" in refusal(chw.permute(1, 2, 0) / 255)
    assert "got torch.bfloat16" in refusal(chw.to(torch.bfloat16))
    assert "got int64" in refusal(pixels.astype(np.int64))
    assert "got bool" in refusal(pixels > 9)
    assert "got list" in refusal([[1, 2], [3, 4]])
    with (tmp_path / "out.png").open("wb") as write_only:
        assert "out.png: can't be read as an image: reading it failed (read)" in refusal(write_only)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "TIFF lzw", "WEBP", "late PNG", "XMP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(pixels: Pixels, kind: str, orientation: int, tmp_path: Path) -> None:
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    if kind == "late PNG":
        data = encoded(image, "PNG")[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + chunk(b"IEND", b"")
    elif kind == "XMP":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="{orientation}"/>')
        data = encoded(image, "PNG", pnginfo=text)
    elif kind == "WEBP":
        data = encoded(image, "WEBP", exif=exif, lossless=True)
    else:
        name, *lzw = kind.split()
        options = {"compression": "tiff_lzw"} if lzw else {}
        data = encoded(image, name, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as opened:
        stored = np.asarray(opened.convert("RGB")) if kind == "JPEG" else pixels
    turned = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    path = tmp_path / "photo"
    path.write_bytes(data)
    read = read_image(path)
    assert np.array_equal(read.pixels, turned)
    assert read.notices == ()
    assert image_size(path) == turned.shape[:2]
    with Image.open(path) as opened:
        assert np.array_equal(read_image(opened).pixels, turned)
        assert opened.getexif().get(ORIENTATION, 1) == (1 if "TIFF" in kind else orientation)


@pytest.mark.parametrize("orientation", [*range(1, 10), "6"])
def test_large_images_are_turned_in_strips(
    pixels: Pixels, orientation: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    expected = read_image(image).pixels
    monkeypatch.setattr(_pixels, "_SMALL", 0)
    monkeypatch.setattr(_pixels, "_STRIP", 36 * 5)
    assert np.array_equal(read_image(image).pixels, expected)
    assert np.array_equal(read_image(image, 1).pixels[:, :, 0], np.asarray(Image.fromarray(expected).convert("L")))


def test_damaged_or_odd_exif_data_is_no_reason_to_refuse(pixels: Pixels, tmp_path: Path) -> None:
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0xx"):
        read = read_image(encoded(Image.fromarray(pixels), "PNG", exif=exif))
        assert np.array_equal(read.pixels, pixels)
        assert read.notices == ("its EXIF data is damaged, so no orientation was applied",)
    for orientation in (0, 9, 99):
        tags = Image.Exif()
        tags[ORIENTATION] = orientation
        (tmp_path / "photo.png").write_bytes(encoded(Image.fromarray(pixels), "PNG", exif=tags))
        assert np.array_equal(read_image(tmp_path / "photo.png").pixels, pixels)
        assert image_size(tmp_path / "photo.png") == (24, 36)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_read_with_a_notice(pixels: Pixels, kind: str) -> None:
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    animated = read_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    single = read_image(encoded(frames[0], kind, **options))
    assert np.array_equal(animated.pixels, single.pixels)
    assert animated.notices == ("it has several frames or pages, of which the first was read",)
    assert single.notices == ()


def test_auxiliary_pictures_are_not_mentioned(pixels: Pixels) -> None:
    image = Image.fromarray(pixels)
    phone = read_image(encoded(image, "MPO", save_all=True, append_images=[image.resize((9, 6))]))
    assert phone.pixels.shape == (24, 36, 3)
    assert phone.notices == ()
    small = image.resize((18, 12))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    assert read_image(encoded(image, "TIFF", save_all=True, append_images=[small])).notices == ()
    with Image.open(io.BytesIO(encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)]))) as opened:
        opened.seek(1)  # the frame that the caller chose
        assert np.array_equal(read_image(opened).pixels, np.asarray(opened.convert("RGB")))
        assert opened.tell() == 1


def test_previews_of_camera_raw_files_are_refused(pixels: Pixels) -> None:
    raw = encoded(Image.fromarray(pixels), "TIFF", tiffinfo={254: 1, 50706: b"\1\4\0\0"})
    assert "is a camera raw file, of which Pillow reads only a small preview" in refusal(raw)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (1, 50000), (33, 65), (50000, 1)])
def test_sizes(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert np.array_equal(read_image(encoded(Image.fromarray(image), "PNG")).pixels, image)


def test_sizes_are_checked_before_anything_is_decoded(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(png_header(65535, 65535))
    assert "has 65535x65535 pixels, 4,294,836,225 in total, but at most 178,956,970 are decoded" in message
    assert "--max-pixels, or max_pixels=" in message
    truncated = png_header(30000, 30000)
    assert "is damaged or incomplete" not in refusal(truncated)
    (tmp_path / "large.png").write_bytes(png_header(65535, 65535))
    assert image_size(tmp_path / "large.png") == (65535, 65535)
    image = Image.fromarray(pixels)
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"):
        data = encoded(image, kind)
        assert "has 36x24 pixels" in refusal(data, max_pixels=24 * 36 - 1), kind
        assert read_image(data, max_pixels=24 * 36).pixels.shape == (24, 36, 3)
        if kind != "WEBP":  # whose pixels Pillow has allocated
            with Image.open(io.BytesIO(data)) as opened:
                assert "has 36x24 pixels" in refusal(opened, max_pixels=24 * 36 - 1), kind
    monkeypatch.setattr(_reading, "open_image", None)  # for WebP, Pillow allocates the pixels there
    for options in ({"lossless": True}, {"lossless": False}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}):
        assert "has 36x24 pixels" in refusal(encoded(image, "WEBP", **options), max_pixels=9)
    assert read_image(pixels, max_pixels=1).pixels is pixels
    assert read_image(image, max_pixels=1).pixels.shape == (24, 36, 3)


def test_pillows_own_limit_has_no_effect(pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a global, warns at half of its value, and is only compared with here."""
    data = {kind: encoded(Image.fromarray(pixels), kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "PPM")}
    lzw = encoded(Image.fromarray(pixels), "TIFF", compression="tiff_lzw")
    for limit in (500, 100):  # a warning, an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for source in (*data.values(), lzw):
            assert read_image(source).pixels.shape == (24, 36, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_bombs_are_never_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """12,000 by 16,000 pixels of one colour in 200 bytes, and 64 MB of text in a chunk of 64 kB."""
    compressor = zlib.compressobj()
    packed = b"".join([compressor.compress(b"\0" * 2**20) for _ in range(64)] + [compressor.flush()])
    data = png_header(4, 4)
    text = data[:33] + chunk(b"zTXt", b"Comment\0\0" + packed) + data[33:]
    assert "damaged or incomplete (Decompressed data too large" in refusal(text)

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert "has 12000x16000 pixels" in refusal(png_header(12000, 16000))


def test_damaged_images_are_refused(pixels: Pixels) -> None:
    for kind, behind in (("PNG", 20), ("JPEG", 0), ("WEBP", 0), ("GIF", 2), ("TIFF", 0), ("BMP", 0), ("PPM", 0)):
        data = encoded(Image.fromarray(pixels), kind)
        expected = read_image(data).pixels
        for end in (
            *range(0, len(data) - 30, 5),
            *range(len(data) - 30, len(data)),
        ):  # what is cut off holds no pixels, or the image is refused
            if end < len(data) - behind:
                message = refusal(data[:end])
                assert "incomplete" in message or end < 13, (kind, end, message)
            else:
                assert np.array_equal(read_image(data[:end]).pixels, expected)
    data = encoded(Image.fromarray(pixels), "PNG")
    for position in range(8, len(data), 7):  # checksums protect the pixels of a PNG
        flipped = bytearray(data)
        flipped[position] ^= 16
        with contextlib.suppress(segnets.ImageError):
            assert np.array_equal(read_image(bytes(flipped)).pixels, pixels)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    cases = {
        b"": "is empty (0 bytes)",
        b"\n<!DOCTYPE html><html><body>404": "is HTML; the download failed",
        b"\xef\xbb\xbf<html lang='de'>": "is HTML",
        b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="9">': "is SVG, a drawing; export it as PNG",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>": "is SVG, a drawing",
        b"<?xml version='1.0'?><a/>": "is XML",
        b'{"message": "Not Found"}': "is JSON",
        b"version https://git-lfs.github.com/spec/v1\n": "is a Git LFS pointer; fetch the image with git lfs pull",
        b"no image, \xc3\xa4": "is text",
        b"\xff\xfet\0e\0x\0t\0": "is text",
        b"%PDF-1.7\n": "is PDF; export its pages as PNG",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "is PostScript (EPS), a drawing",
        b"\xd7\xcd\xc6\x9a" + bytes(99): "is a Windows metafile (WMF)",
        b"\0\0\0\x18ftypheic" + bytes(99): "is HEIC, which Pillow reads with the package pillow-heif",
        b"\0\0\0\x18ftypisom" + bytes(99): "is a video (MP4 or QuickTime)",
        b"\x1aE\xdf\xa3" + bytes(99): "is a video (Matroska or WebM)",
        b"RIFF\0\0\0\0AVI LIST" + bytes(99): "is a video (AVI)",
        b"PK\3\4" + bytes(99): "is a zip archive",
        b"\x1f\x8b" + bytes(99): "is compressed with gzip",
        b"\x93NUMPY" + bytes(99): "is a NumPy array",
        b"\x89HDF\r\n\x1a\n" + bytes(99): "is HDF5",
        b"\0": "not an image that Pillow can read",
        bytes(1000): "not an image that Pillow can read",
        bytes(range(256)): "not an image that Pillow can read",
        png_header(0, 5): "is a PNG image, damaged, incomplete or of an unusual kind",
    }
    for content, message in cases.items():
        (tmp_path / "photo.jpg").write_bytes(content)
        assert f"photo.jpg: {message}" in refusal(tmp_path / "photo.jpg").replace(
            "not an image that Pillow can read: ", ""
        )
        assert message in refusal(content)


def test_postscript_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **_: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(subprocess, "Popen", fail)
    refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def test_paths_that_are_no_files_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
    cases: dict[Any, str] = {
        pipe: "pipe.png: is a pipe, device or socket; pass its bytes",
        "/dev/zero": "/dev/zero: is a pipe, device or socket",
        tmp_path / "s": "is a pipe, device or socket",
        tmp_path: "is a folder; pass an image in it",
        tmp_path / "none.png": "none.png: no such file",
        tmp_path / "none" / "x.png": "no such file",
        tmp_path / "loop.png": "is reached through a loop of symbolic links",
        str(tmp_path / ("x" * 300)): "the name is too long",
        "a\0b": r"a\x00b: is not a valid path",
        "https://example.org/a.png": "URLs are not supported",
        "": "image: its path is empty",
    }
    for path, message in cases.items():
        assert message in refusal(path)
        with pytest.raises(segnets.ImageError, match=re.escape(message)):
            image_size(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    (tmp_path / "photo.png").chmod(0)
    assert "photo.png: permission denied" in refusal(tmp_path / "photo.png")


def test_names_are_shown_on_one_line(tmp_path: Path) -> None:
    for name, shown in (("a b\n\x1b[31m🌳é.png", r"a b\n\x1b[31m🌳é.png"), (os.fsdecode(b"\xff.png"), r"\udcff.png")):
        assert f"/{shown}: no such file" in refusal(tmp_path / name)
        with contextlib.suppress(OSError):  # a file system that allows such names
            (tmp_path / name).write_text("text")
            assert f"/{shown}: not an image" in refusal(tmp_path / name)


class Shrinking(io.FileIO):
    """File that another program cuts off during the second read."""

    reads = 0

    def readinto(self, buffer: Any) -> int | None:
        self.reads += 1
        if self.reads == 2:
            os.truncate(self.name, 2000)
        return super().readinto(buffer)


def test_a_file_that_vanishes_or_shrinks_while_it_is_read(pixels: Pixels, tmp_path: Path) -> None:
    """No file is mapped to memory: reading past its end would kill the process."""
    large = np.tile(pixels, (20, 20, 1))
    for kind in ("BMP", "PPM", "TIFF", "PNG", "JPEG"):
        path = tmp_path / "photo"
        path.write_bytes(encoded(Image.fromarray(large), kind))

        with io.BufferedReader(Shrinking(path)) as file:
            assert "image is damaged or incomplete" in refusal(file)

    class Broken(io.RawIOBase):
        def seek(self, *_: Any) -> int:
            return 0

        def read(self, *_: Any) -> bytes:
            raise OSError(116, "Stale file handle")

    assert "Stale file handle" in refusal(Broken())
