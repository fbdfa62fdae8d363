"""Files of checkpoints: complete or refused."""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from segnets.errors import OutputError, TrainingError
from segnets.training.checkpoints import KIND, VERSION, read_checkpoint, restoring, write_checkpoint

STATE = {"weights": {"a": torch.arange(4000.0)}, "names": ("x", "y"), "steps": 3, "best": None, "lr": 0.1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "last.ckpt", STATE)
    return tmp_path / "last.ckpt"


def test_a_checkpoint_comes_back(path: Path) -> None:
    state = read_checkpoint(path)
    assert torch.equal(state["weights"]["a"], torch.arange(4000.0))
    assert {key: state[key] for key in ("names", "steps", "best", "lr")} == {
        "names": ("x", "y"),
        "steps": 3,
        "best": None,
        "lr": 0.1,
    }


def test_only_plain_values_are_stored(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['path'\]: a checkpoint can't hold a PosixPath"):
        write_checkpoint(tmp_path / "last.ckpt", {"path": tmp_path})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(part: float, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(TrainingError, match="truncated, damaged or not a checkpoint; continue from"):
        read_checkpoint(path)


def test_a_changed_byte_is_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"is damaged .* does not match its checksum"):
        read_checkpoint(path)


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 8)], ids=["encrypted", "deflated"])
def test_an_entry_that_claims_another_form_is_refused(offset: int, value: int, path: Path) -> None:
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        name = max(archive.infolist(), key=lambda entry: entry.file_size).filename.encode()
        local = next(entry.header_offset for entry in archive.infolist() if entry.filename.encode() == name)
    directory = content.rindex(name) - 46  # in the central directory, whose fields are two bytes further
    content[local + offset - 2] = content[directory + offset] = value
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="truncated, damaged or not a checkpoint; continue from"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": KIND, "version": VERSION + 1}, "written by a newer segnets"),
        ({"kind": KIND, "version": None}, "is damaged: its version is None"),
        ({"model": {}}, "is not a checkpoint of segnets train and can't be resumed"),
        ([1, 2], "is not a checkpoint of segnets train"),
        ({"kind": KIND, "version": VERSION, "model": torch.nn.Linear(1, 1)}, "is damaged or not a checkpoint"),
    ],
)
def test_other_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(TrainingError, match=message) as caught:
        read_checkpoint(tmp_path / "other.ckpt")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such checkpoint"):
        read_checkpoint(tmp_path)


def test_a_failed_write_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(_file: Any, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("segnets.training.checkpoints._ErrorKeeper._write", full)
    with pytest.raises(OutputError, match="the disk is full; free some space"):
        write_checkpoint(path, STATE)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_compressed_entries_are_refused_unread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file could unpack to more than the memory holds."""
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _self: pytest.fail("was unpacked"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000))
    with pytest.raises(TrainingError, match="truncated, damaged or not a checkpoint"):
        read_checkpoint(path)


def test_too_little_memory_is_no_fault_of_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError), restoring(tmp_path / "last.ckpt"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    refused = pytest.raises(TrainingError, match=r"last\.ckpt: does not contain the state of this run")
    with refused, restoring(tmp_path / "last.ckpt"):
        raise RuntimeError("Missing key")
