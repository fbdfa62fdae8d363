"""Checkpoints with a damaged or hostile archive are refused with little memory and leave no file."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segnets
from segnets.errors import WeightsError
from tests.weights_tools.files import assert_same, network, rezip, saved, tensor_pickle, unzip
from weights_tools import convert, inspect
from weights_tools.cli import main
from weights_tools.extract.state_dict import find_state_dict
from weights_tools.reader import open_checkpoint
from weights_tools.reader.tensors import TensorReader

State = dict[str, Tensor]
Entries = dict[str, bytes]
FIRST = "backbone.0.0.weight"  # the storage "0"


def _refused(folder: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one-line error of `convert`; check its memory and that it leaves no file."""
    before = sorted(folder.iterdir())
    tracemalloc.start()
    try:
        assert main(["convert", str(path), str(folder / "out.safetensors")]) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * path.stat().st_size + (16 << 20)
    assert sorted(folder.iterdir()) == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith((f"weights-tools: {path}: the ", f"weights-tools: {path}: no known "))
    return captured.err


STORAGES: dict[str, tuple[Callable[[Entries], Any], tuple[str, ...], str]] = {
    "short": (
        lambda e: e.update({"data/0": e["data/0"][:-4]}),
        (),
        f"the tensor '{FIRST}' has 1,724 bytes of data, but 1,728 are stated",
    ),
    "missing": (lambda e: e.pop("data/0"), (), f"the tensor '{FIRST}' has no data: the entry '0' is missing"),
    "compressed": (
        len,  # changes nothing
        ("data/0",),
        f"the tensor '{FIRST}' is stored compressed, which torch never does. Save the checkpoint again with",
    ),
    "deflate bomb": (
        lambda e: e.update({"data/0": bytes(1 << 26)}),
        ("data/0",),
        f"the tensor '{FIRST}' is stored compressed",
    ),
}


@pytest.mark.parametrize("case", STORAGES)
def test_storages_unlike_their_description_are_refused(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    change, compressed, message = STORAGES[case]
    entries = unzip(saved(state))
    change(entries)
    path = rezip(tmp_path / "w.pth", entries, compressed=compressed)
    assert message in _refused(tmp_path, path, capsys)
    report = inspect(path)
    assert report.refused is not None
    assert message in report.refused


VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "stride 0": (lambda t: torch.zeros(1).expand(t.shape), "claims 432 elements, but only 1 are stored"),
    "overlapping": (
        lambda t: torch.zeros(100).as_strided(t.shape, (2, 1, 1, 1)),
        "claims 432 elements, but only 100 are stored (a stride of 0 repeats them)",
    ),
}


@pytest.mark.parametrize("case", VIEWS)
def test_views_larger_than_their_storage_are_refused(
    tmp_path: Path, state: State, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    make, message = VIEWS[case]
    path = tmp_path / "w.pth"
    torch.save({**state, FIRST: make(state[FIRST])}, path)
    assert f"the tensor '{FIRST}' {message}" in _refused(tmp_path, path, capsys)


def test_view_of_40_gb_in_a_small_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(1).expand(100_000, 100_000)}, path)
    assert path.stat().st_size < 4096
    _refused(tmp_path, path, capsys)
    assert inspect(path).parameters == 10**10


def test_slice_of_a_large_storage_is_not_copied(tmp_path: Path, state: State) -> None:
    """Convert a tensor of 84 bytes in a storage of 64 MB, which is read once."""
    name = "classifier.high_classifier.bias"
    large = torch.zeros(1 << 24)
    large[:21] = state[name]
    torch.save({**state, name: large[:21]}, tmp_path / "w.pth")
    tracemalloc.start()
    try:
        convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / "w.pth").stat().st_size + (32 << 20)
    assert (tmp_path / "out.safetensors").stat().st_size < 20 << 20
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), state)


def test_no_flipped_bit_changes_a_number(tmp_path: Path) -> None:
    """Flip bits all over a small archive: each is refused, or has no meaning."""
    tensors = {"conv.weight": torch.arange(24.0).reshape(2, 3, 4), "n": torch.tensor(3)}
    content = saved(tensors)
    path = tmp_path / "w.pth"
    refused = 0
    for position in range(0, len(content), 3):
        bit = 1 << position % 8
        path.write_bytes(content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :])
        try:
            with open_checkpoint(path) as (source, container):
                reader = TensorReader(source, container)
                found = find_state_dict(container).tensors
                read = {name: reader.read(name, ref) for name, ref in found.items()}
                assert_same(read, tensors)
        except WeightsError:
            refused += 1
    assert refused > len(content) / 9


@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_missing_checksums_are_noted(tmp_path: Path, state: State, kind: str) -> None:
    from safetensors.torch import save

    content = save(state) if kind == "safetensors" else saved(state, _use_new_zipfile_serialization=False)
    (tmp_path / "w.pth").write_bytes(content)
    assert "the format has no checksums" in convert(tmp_path / "w.pth", tmp_path / "out.safetensors").notes


def test_flipped_bit_under_a_name_with_a_hash_is_noted(tmp_path: Path, state: State) -> None:
    import hashlib

    content = saved(state, _use_new_zipfile_serialization=False)
    path = tmp_path / f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    assert inspect(path).doubts == ()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    assert any(doubt.startswith("the file's name states the checksum") for doubt in inspect(path).doubts)
    report = convert(path, tmp_path / "out.safetensors")
    assert any("not with the digits in the file's name" in note for note in report.notes)


def test_archive_with_leading_bytes_is_refused(tmp_path: Path) -> None:
    """Refuse what self-extracting archives do; other readers accept the archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", tensor_pickle((3,), (1,), numel=3))
        made.writestr("a/data/0", bytes(12))
    data = bytearray(file.getvalue())
    junk = b"PK\x03\x04 and more that is no entry"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        position, end = archive.start_dir, data.rfind(b"PK\x05\x06")
        for entry in archive.infolist():
            data[position + 42 : position + 46] = struct.pack("<L", entry.header_offset + len(junk))
            position += 46 + sum(struct.unpack("<3H", data[position + 28 : position + 34]))
        data[end + 16 : end + 20] = struct.pack("<L", archive.start_dir + len(junk))
    path = tmp_path / "w.pth"
    path.write_bytes(junk + data)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with pytest.raises(WeightsError, match=r"the archive has bytes before its first entry\. Only a plain zip archive"):
        inspect(path)


def test_program_of_a_torchscript_archive_is_never_read(tmp_path: Path) -> None:
    """Replace the program by garbage; only `torch.jit.load` would run it."""
    model = network(num_classes=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(model), tmp_path / "whole.pt")
    entries = unzip((tmp_path / "whole.pt").read_bytes())
    changed = {name: b"!" if name.startswith("code/") else content for name, content in entries.items()}
    assert changed != entries
    report = convert(rezip(tmp_path / "w.pt", changed), tmp_path / "out.safetensors")
    assert report.container == "TorchScript archive"
    assert "the archive's code was neither run nor read: only the parameters were read" in report.notes
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), dict(model.state_dict()))


def test_exported_program_is_refused(tmp_path: Path) -> None:
    from torch.export import export, save

    save(export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "w.pt2")
    with pytest.raises(
        WeightsError, match=r"the file is a \.pt2 archive of torch\.export: a program, which loading would run"
    ):
        inspect(tmp_path / "w.pt2")


def test_big_endian_legacy_file_is_read(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(5.0), "b": torch.tensor(7), "c": torch.ones(3, dtype=torch.uint8)}
    path = tmp_path / "w.pth"
    path.write_bytes(saved(tensors, _use_new_zipfile_serialization=False))
    content = bytearray(path.read_bytes().replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"))
    with open_checkpoint(path) as (_, container):
        for ref in find_state_dict(container).tensors.values():
            start, size = container.spans[ref.storage.key]
            width = size // ref.storage.numel
            for at in range(start, start + size, width):
                content[at : at + width] = content[at : at + width][::-1]
            content[start - 8 : start] = content[start - 8 : start][::-1]  # the number of elements
    path.write_bytes(content)
    with open_checkpoint(path) as (source, container):
        assert container.big_endian
        reader = TensorReader(source, container)
        found = find_state_dict(container).tensors
        assert_same({name: reader.read(name, ref) for name, ref in found.items()}, tensors)
