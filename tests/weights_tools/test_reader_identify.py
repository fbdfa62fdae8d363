"""Files that are not checkpoints are identified by content, never by name, and refused with advice."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import socket
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segnets.errors import WeightsError
from tests.weights_tools.files import Bomb, saved
from weights_tools import convert, inspect


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def _zip(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty: the download or the copy failed"),
    "HTML": (b"\n<!DOCTYPE html><html><title>404", r"the file is a web page \(HTML\), so the download failed"),
    "XML": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied',
        "the file is XML text, probably a server's error message",
    ),
    "JSON": (b'{"message": "Not Found"}', "the file is JSON text that says 'Not Found', so the download failed"),
    "JSON list": (b"[1, 2]", "the file is JSON text, not a checkpoint"),
    "sharded": (
        json.dumps({"weight_map": {"a": "b"}}).encode(),
        "1 of the 1 files listed in the index are missing: b",
    ),
    "LFS": (LFS, "the file is a git-LFS pointer, not the weights. Run `git lfs pull`"),
    "text": (b"hello, world\n" * 20, "the file is text that begins with 'hello, world"),
    "zeros": (bytes(5000), "begins with nothing but zero bytes"),
    "few bytes": (b"\x01\x02\xff", "the file has only 3 bytes"),
    "noise": (bytes(range(200, 256)) * 50, r"not a known kind of checkpoint \(first bytes c8 c9 ca"),
    "npy": (_npy(), r"a NumPy array \(\.npy\)"),
    "npz": (_npz(), r"an archive of NumPy arrays \(\.npz\)"),
    "gzip": (gzip.compress(saved({"w": torch.ones(3)})), "compressed with gzip. Decompress it with `gunzip`"),
    "PNG": (_png(), "a PNG image"),
    "tar": (_tar(), "the file is a tar archive, as written by torch.save before 2016, which can't be read safely"),
    "SavedModel": (b"\x08\x01\x12\x83\x20\x0a\x10\xff" + bytes(99), "probably a TensorFlow SavedModel"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(99), "the file is a TensorFlow Lite model"),
    "ExecuTorch": (b"\x38\0\0\0ET12" + bytes(99), "the file is an ExecuTorch program. Pass the checkpoint"),
    "PyTorch Mobile": (b"\x08\0\0\0PTMF" + bytes(99), "the file is a PyTorch Mobile program. Pass the checkpoint"),
    "pt2": (
        _zip("m/archive_format", "m/models/model.json", "m/data.pkl"),
        r"a \.pt2 archive of torch\.export: a program",
    ),
    "zip of a checkpoint": (_zip("run/best.pth"), r"a zip archive that holds 'run/best\.pth'\. Unpack it"),
    "other zip": (_zip("word/document.xml"), r"a zip archive without data\.pkl"),
    "empty zip": (_zip(), "an empty zip archive"),
    "bare pickle": (pickle.dumps({"w": 1}), r"a bare pickle, which torch\.save did not write\. Nothing in it was run"),
    "damaged pickle": (b"\x80\x02}q\x00X\xff\xff\xff", "a bare pickle that is damaged"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_other_files_are_refused_with_a_description(tmp_path: Path, case: str, name: str) -> None:
    content, message = CASES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        convert(path, tmp_path / "out.safetensors")
    assert str(error.value).startswith(f"{path}: ")
    assert "weights_only=False" not in str(error.value) or case == "tar"
    with pytest.raises(WeightsError, match=message):
        inspect(path)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_attack_in_a_bare_pickle_is_reported_and_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "w.pth", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"w": Bomb(marker)}))
    with pytest.raises(WeightsError, match=r"names posix\.mkdir, which runs commands: .* Nothing in it was run"):
        inspect(path)
    assert not marker.exists()


def test_format_does_not_depend_on_the_file_name(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    for name, content in (("a.safetensors", saved(state)), ("b.txt", saved(state)), ("c", saved(state))):
        (tmp_path / name).write_bytes(content)
        assert inspect(tmp_path / name).container == "torch zip"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_whole_module_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save(Net(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"a whole pickled model \(.*Net\), .* save model\.state_dict\(\) instead"):
        convert(path, tmp_path / "out.safetensors")


FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "plain": ((), r"the path is a folder\. Pass a file in it"),
    "with weights": (("best.pth", "log.txt"), r"the path is a folder\. Pass a file in it, for example 'best\.pth'"),
    "DCP": ((".metadata", "__0_0.distcp"), r"a distributed checkpoint .* dcp_to_torch"),
    "DeepSpeed": (("latest", "mp_rank_00_model_states.pt"), r"a DeepSpeed checkpoint.* zero_to_fp32\.py"),
    "unpacked": (("data.pkl", "version"), r"an unpacked checkpoint\. Pass the \.pth file itself"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_are_refused_with_advice(tmp_path: Path, case: str) -> None:
    names, message = FOLDERS[case]
    folder = tmp_path / "given"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    with pytest.raises(WeightsError, match=message):
        inspect(folder)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoint_is_refused_with_advice(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "given"
    dcp.save({"model": {"w": torch.ones(3), "v": torch.ones(2)}}, checkpoint_id=folder, no_dist=True)
    how = r"Convert the folder to one file: `python -m torch\.distributed\.checkpoint\.format_utils dcp_to_torch"
    with pytest.raises(WeightsError, match=f"the folder is a distributed checkpoint .*{how}"):
        inspect(folder)
    for name in (".metadata", "__0_0.distcp"):
        with pytest.raises(WeightsError, match=f"name marks it as part of a distributed checkpoint. {how}") as error:
            inspect(folder / name)
        assert len(str(error.value).splitlines()) == 1


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _zero(path: Path) -> None:
    """Make a device node like /dev/zero, which can be read without end."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_fifo, _socket, _zero])
def test_only_regular_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    make(Path("w.pth"))
    with pytest.raises(WeightsError, match="the path is a device, pipe or socket, not a regular file"):
        inspect("w.pth")


def test_paths_without_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"w\.pth: the file does not exist\. Check the name"):
        inspect(tmp_path / "w.pth")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(WeightsError, match="the symbolic link points to a missing file"):
        inspect(tmp_path / "link")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(WeightsError, match="the file can't be opened: Too many levels of symbolic links"):
        inspect(tmp_path / "loop")
    with pytest.raises(WeightsError, match="the file can't be opened: File name too long"):
        inspect(tmp_path / ("x" * 300))
    with pytest.raises(WeightsError, match="the file can't be opened: embedded null byte"):
        inspect("a\0b")


def test_file_changed_during_the_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    read = os.preadv

    def read_and_modify(*arguments: Any) -> int:
        count = read(*arguments)
        with path.open("r+b") as file:
            file.seek(5000)
            file.write(b"!")
        os.utime(path, ns=(1, 1))
        return count

    monkeypatch.setattr("os.preadv", read_and_modify)
    with pytest.raises(
        WeightsError, match=r"the file changed while it was read\. Try again when no process writes to it"
    ):
        inspect(path)


def test_file_truncated_during_the_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    monkeypatch.setattr("os.preadv", lambda *_: 0)
    with pytest.raises(WeightsError, match="the file changed while it was read"):
        inspect(path)


def test_file_larger_than_memory_is_refused(tmp_path: Path) -> None:
    """Refuse a sparse file of 1 TB; one without any content is identified as zeros first."""
    path = tmp_path / "w.pth"
    path.write_bytes(saved({"w": torch.ones(3)}))
    os.truncate(path, 1 << 40)
    with pytest.raises(WeightsError, match=r"larger \(1099\.5 GB\) than the free memory \([\d.]+ GB\)"):
        inspect(path)
    os.truncate(path, 0)
    os.truncate(path, 1 << 40)
    with pytest.raises(WeightsError, match="nothing but zero bytes"):
        inspect(path)
