"""Damaged zip archives, and archives that could be read in two ways, are refused."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segnets
from segnets.errors import WeightsError
from tests.weights_tools.files import assert_same, rezip, saved, tensor_pickle, unzip
from weights_tools import convert, inspect

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def archive(state: State) -> bytes:
    return saved(state)


def _read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    convert(tmp_path / "w.pth", tmp_path / "out.safetensors")


def _without_sums(data: bytes) -> bytes:
    """Set every CRC-32 to 0: in the directory, the local headers and the data descriptors."""
    changed = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        position = archive.start_dir
        for entry in archive.infolist():
            changed[position + 16 : position + 20] = bytes(4)
            changed[entry.header_offset + 14 : entry.header_offset + 18] = bytes(4)
            position += 46 + sum(struct.unpack("<3H", data[position + 28 : position + 34]))
    return bytes(changed)


def _duplicate(_: bytes) -> bytes:
    file = io.BytesIO()
    content = tensor_pickle((3,), (1,), numel=3)
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", content)
        with pytest.warns(UserWarning, match="Duplicate name"):
            made.writestr("a/data.pkl", content)
    return file.getvalue()


def _encrypted(data: bytes) -> bytes:
    changed = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        changed[archive.start_dir + 8] |= 1
    return bytes(changed)


def _traversal(_: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", tensor_pickle((3,), (1,), numel=3))
        made.writestr("a/data/../../../etc/passwd", b"")
    return file.getvalue()


def _gap(data: bytes) -> bytes:
    """Put ten bytes between the first entry and the second, and correct every offset."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries, start = archive.infolist(), archive.start_dir
    second = entries[1].header_offset
    changed = bytearray(data)
    position = start
    for entry in entries:
        if entry.header_offset >= second:
            changed[position + 42 : position + 46] = struct.pack("<L", entry.header_offset + 10)
        position += 46 + sum(struct.unpack("<3H", data[position + 28 : position + 34]))
    end = data.rfind(b"PK\x05\x06")
    changed[end + 16 : end + 20] = struct.pack("<L", start + 10)
    return bytes(changed[:second] + bytes(10) + changed[second:])


def _python_zip(_: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", tensor_pickle((3,), (1,), numel=3))
        made.writestr("a/data/0", bytes(12))
    return file.getvalue()


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "ten bytes": (lambda d: d[:10], "the archive is truncated: 10 bytes and no end record"),
    "half": (
        lambda d: d[: len(d) // 2],
        r"the archive is truncated: [0-9,]+ bytes and no end record\. Download or copy it again",
    ),
    "end missing": (lambda d: d[:-40], "the archive is truncated|end record is missing"),
    "one byte missing": (lambda d: d[:-1], "the archive is truncated"),
    "trailing byte": (lambda d: d + b"\0", "bytes after the end of the archive"),
    "twice": (lambda d: d + d, "the archive's directory is not where the end record puts it"),
    "archive in front": (lambda d: _zip_of_one() + d, "the archive's directory is not where the end record puts it"),
    "script in front": (lambda d: b"#!/bin/sh\n" + d, "the file is not a known kind|the file is text"),
    "duplicate names": (_duplicate, "the archive has two entries 'a/data.pkl'"),
    "encrypted": (_encrypted, "the archive is encrypted with a password"),
    "traversal": (_traversal, "the entry 'a/data/../../../etc/passwd' points out of the archive"),
    "gap": (lambda d: _gap(_python_zip(d)), "the entries of the archive overlap or leave gaps"),
    "two checkpoints": (lambda _: _two_roots(), "the archive holds several checkpoints"),
}


def _zip_of_one() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/b", "x")
    return file.getvalue()


def _two_roots() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", b"")
        made.writestr("b/data.pkl", b"")
    return file.getvalue()


@pytest.mark.parametrize("case", BROKEN)
def test_damaged_and_ambiguous_archives_are_refused(tmp_path: Path, archive: bytes, case: str) -> None:
    change, message = BROKEN[case]
    with pytest.raises(WeightsError, match=message):
        _read(tmp_path, change(archive))
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


def test_flipped_bit_is_refused(tmp_path: Path, state: State, archive: bytes) -> None:
    position = archive.index(state["classifier.high_classifier.weight"].numpy().tobytes()) + 1001
    damaged = archive[:position] + bytes([archive[position] ^ 4]) + archive[position + 1 :]
    with pytest.raises(WeightsError, match=r"the entry '.*/data/\d+' is damaged: checksum [0-9a-f]{8}, expected"):
        _read(tmp_path, damaged)
    assert inspect(tmp_path / "w.pth", data=False).model == "lraspp_mobilenet_v3_large"


def test_archive_without_checksums_is_accepted_and_noted(tmp_path: Path, state: State, archive: bytes) -> None:
    _read(tmp_path, _without_sums(archive))
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), state)
    assert (
        "the archive holds no checksums (every CRC-32 is 0), so damage can't be noticed"
        in inspect(tmp_path / "w.pth").notes
    )


def test_archive_of_torch_without_checksums_is_read(tmp_path: Path, state: State) -> None:
    from torch.serialization import set_crc32_options

    set_crc32_options(False)
    try:
        content = saved(state)
    finally:
        set_crc32_options(True)
    _read(tmp_path, content)
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), state)


ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "short storage": ({"data/0": bytes(11)}, "the tensor 'w' has 11 bytes of data, but 12 are stated"),
    "long storage": ({"data/0": bytes(13)}, "has 13 bytes of data, but 12 are stated"),
    "missing storage": ({"data/1": bytes(12)}, "the tensor 'w' has no data: the entry '0' is missing"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_storages_of_wrong_size_are_refused(tmp_path: Path, case: str) -> None:
    entries, message = ENTRIES[case]
    path = rezip(tmp_path / "w.pth", {"data.pkl": tensor_pickle((3,), (1,), numel=3), **entries})
    assert message in _refused(path)


def _refused(path: Path) -> str:
    """Return the reader's error for the tensor "w", without recognising a network."""
    from weights_tools.reader import open_checkpoint
    from weights_tools.reader.tensors import TensorReader

    def attempt() -> None:
        with open_checkpoint(path) as (source, container):
            assert isinstance(container.top, dict)
            TensorReader(source, container).read("w", container.top["w"])

    with pytest.raises(WeightsError) as error:
        attempt()
    return str(error.value)


def test_compressed_storage_is_refused(tmp_path: Path) -> None:
    entries = {"data.pkl": tensor_pickle((1 << 26,), (1,), numel=1 << 26), "data/0": bytes(1 << 28)}
    path = rezip(tmp_path / "w.pth", entries, compressed=("data/0",))
    assert path.stat().st_size < 1 << 20
    assert "the tensor 'w' is stored compressed, which torch never does" in _refused(path)


def test_compressed_pickle_is_read_up_to_a_limit(tmp_path: Path) -> None:
    data = tensor_pickle((3,), (1,), numel=3)
    rezip(tmp_path / "w.pth", {"data.pkl": data, "data/0": bytes(12)}, compressed=("data.pkl",))
    assert inspect(tmp_path / "w.pth").tensors == 1
    rezip(tmp_path / "bomb.pth", {"data.pkl": bytes(1 << 27), "data/0": bytes(12)}, compressed=("data.pkl",))
    with pytest.raises(WeightsError, match="has 134,217,728 bytes, more than any checkpoint needs there"):
        inspect(tmp_path / "bomb.pth")


def test_compressed_pickle_with_wrong_checksum_is_refused(tmp_path: Path) -> None:
    entries = {"data.pkl": tensor_pickle((3,), (1,), numel=3), "data/0": bytes(12)}
    path = rezip(tmp_path / "w.pth", entries, compressed=("data.pkl",))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry, directory = archive.infolist()[0], archive.start_dir
    assert (entry.filename, entry.compress_type) == ("archive/data.pkl", zipfile.ZIP_DEFLATED)
    wrong = struct.pack("<L", entry.CRC ^ 1)
    content[entry.header_offset + 14 : entry.header_offset + 18] = wrong
    content[directory + 16 : directory + 20] = wrong
    path.write_bytes(content)
    for data in (True, False):
        with pytest.raises(WeightsError, match=r"the entry 'archive/data.pkl' is damaged: the checksum differs"):
            inspect(path, data=data)


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "message"),
    [
        ((100_000, 100_000), (0, 0), 0, "claims 10,000,000,000 elements, but only 3 are stored"),
        ((2, 2), (1, 1), 0, "claims 4 elements, but only 3 are stored"),
        ((3,), (1,), 1, "reaches beyond its data"),
        ((2,), (5,), 0, "reaches beyond its data"),
        ((1 << 47, 1 << 47), (1, 1), 0, "claims"),
        ((1, 1), (1,), 0, "a shape and strides of different lengths"),
        ((-1,), (1,), 0, "the size of a tensor is not a natural number"),
        ((1 << 60,), (1,), 0, "the size of a tensor is not a natural number"),
        ((1,) * 20, (1,) * 20, 0, "the size of a tensor is not a short list of numbers"),
        ((1,), (1,), -1, "a tensor lacks its storage"),
    ],
)
def test_views_beyond_their_storage_are_refused(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, message: str
) -> None:
    data = tensor_pickle(shape, stride, numel=3, offset=offset)
    assert message in _refused(rezip(tmp_path / "w.pth", {"data.pkl": data, "data/0": bytes(12)}))


def test_big_endian_archives_are_read(tmp_path: Path, state: State, archive: bytes) -> None:
    entries = unzip(archive)
    sizes = {f"data/{i}": tensor.element_size() for i, tensor in enumerate(state.values())}
    assert entries["byteorder"] == b"little"
    for name, width in sizes.items():
        data = entries[name]
        entries[name] = (
            b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))
            if len(data) < 1 << 16
            else (torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(-1, width).flip(1).numpy().tobytes())
        )
    entries["byteorder"] = b"big"
    rezip(tmp_path / "w.pth", entries)
    convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), state)
    rezip(tmp_path / "w.pth", {**entries, "byteorder": b"middle"})
    with pytest.raises(WeightsError, match=r"the byte order b'middle' is unknown \(known: little, big\)"):
        inspect(tmp_path / "w.pth")
