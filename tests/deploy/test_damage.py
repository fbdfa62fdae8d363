"""Foreign and damaged files, full disks and kills cause a clear error and lose no data."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from segnets.deploy import export, load_exported, read_contract, verify
from segnets.errors import ExportError, OutputError
from segnets.preprocessing import Preprocessing
from tests.deploy.common import SMALL, break_compressed, compressed, random_model, rewrite, tiny

EXPORT = (
    "from segnets.registry import find_builder; from segnets.deploy import export\n"
    "from segnets.preprocessing import Preprocessing\n"
    "model = find_builder('lraspp_mobilenet_v3_small')(num_classes=3)\n"
    "small = Preprocessing(resize='fixed', size=(32, 32))\n"
)


def drop(suffix: str) -> Callable[[str, bytes], bytes | None]:
    return lambda name, contents: None if name.endswith(suffix) else contents


def edit_contract(**changes: object) -> Callable[[str, bytes], bytes | None]:
    def change(name: str, contents: bytes) -> bytes:
        if not name.endswith("extra/segnets.json"):
            return contents
        return json.dumps({**json.loads(contents), **changes}).encode()

    return change


def test_truncated(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    for size in (4, 1000, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        (tmp_path / "t.ts").write_bytes(whole[:size])
        with pytest.raises(ExportError, match=r"t\.ts: is truncated or damaged"):
            load_exported(tmp_path / "t.ts")


def test_one_flipped_bit(small: Path, tmp_path: Path) -> None:
    data = bytearray(small.read_bytes())
    data[len(data) // 2] ^= 1  # in the weights
    (tmp_path / "t.ts").write_bytes(data)
    with pytest.raises(ExportError, match="is damaged: the checksum of"):
        load_exported(tmp_path / "t.ts")


def test_compressed_entries(small: Path, tmp_path: Path) -> None:
    """LibTorch reads compressed entries without comparing their checksums."""
    path = compressed(small, tmp_path / "t.ts")
    assert verify(path).passed
    name = break_compressed(path, "checksum")
    with pytest.raises(ExportError, match=rf"is damaged: the checksum of '{name}' is wrong"):
        load_exported(path)
    break_compressed(compressed(small, path), "data")
    for read in (load_exported, read_contract):
        with pytest.raises(ExportError, match=r"t\.ts: is truncated or damaged"):
            read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("segnets.json"), r"has no segnets\.json: it was not made by segnets\.export"),
        (drop("golden.safetensors"), r"has no golden\.safetensors"),
        (drop("constants.pkl"), "is a Python checkpoint"),
        (edit_contract(format="other"), "is not a segnets contract"),
        (edit_contract(format_version=3), "has version 3, but this segnets reads 1 to 2. Upgrade segnets"),
        (edit_contract(classes=["a"]), "is damaged: classes: 1 names"),
        (edit_contract(num_classes=0), r"is damaged: num_classes=0: expected 1\.\.32767"),
        (edit_contract(golden={}), "is damaged: the field 'tolerance' is missing"),
        (edit_contract(preprocessing={}), "is damaged: preprocessing: missing fields"),
        (
            edit_contract(preprocessing={**Preprocessing().to_json(), "resize": "scale", "size": -2}),
            "is damaged: size=-2 with resize='scale': expected a factor from 0.1 to 10",
        ),
        (lambda n, c: b"{" if n.endswith("segnets.json") else c, r"segnets\.json is not JSON"),
        (lambda n, c: b"junk" if n.endswith("golden.safetensors") else c, r"golden\.safetensors is damaged"),
        (lambda n, c: b"junk" if n.endswith("constants.pkl") else c, "LibTorch can't load it"),
    ],
)
def test_tampered(change: Callable[[str, bytes], bytes | None], message: str, small: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        load_exported(rewrite(small, tmp_path / "t.ts", change))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x10\0\0\0\0\0\0\0{}              ", "a safetensors file"),
        (b"\x80\x02}q\0.", "a pickle"),
        (b"nonsense", "is not a TorchScript archive\\. Export a model"),
    ],
)
def test_other_files(contents: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.ts").write_bytes(contents)
    with pytest.raises(ExportError, match=message):
        read_contract(tmp_path / "t.ts")


def test_a_checkpoint_and_a_missing_file(tmp_path: Path) -> None:
    torch.save(random_model(num_classes=3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ExportError, match=r"is a Python checkpoint \(torch\.save\)"):
        load_exported(tmp_path / "w.pth")
    with pytest.raises(ExportError, match="No such file"):
        load_exported(tmp_path / "none.ts")
    with pytest.raises(ExportError, match="is not a regular file"):
        load_exported(tmp_path)


def test_a_file_size_limit_is_an_error_and_not_an_abort(tmp_path: Path) -> None:
    target = tmp_path / "m.ts"
    target.write_bytes(b"the old file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OutputError, match="can't be written: the file would exceed the size limit"):
            export(tiny(), target, preprocessing=SMALL, target="portable")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == b"the old file"
    assert [p.name for p in tmp_path.iterdir()] == ["m.ts"]


def test_a_full_disk_is_an_error_and_not_an_abort(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting a small disk needs root and unshare (package util-linux); the size limit is tested above")
    disk = tmp_path / "disk"
    disk.mkdir()
    program = EXPORT + (
        "import pathlib\n"
        f"disk = pathlib.Path({str(disk)!r}); target = disk / 'm.ts'; target.write_bytes(b'old')\n"
        "try:\n    export(model, target, preprocessing=small, target='portable')\n"
        "except OSError as error:\n    print(error)\n"
        "print(target.read_bytes(), sorted(p.name for p in disk.iterdir()))\n"
    )
    script = f'mount -t tmpfs -o size=2m tmpfs "{disk}" && exec "{sys.executable}" -c "$PROGRAM"'
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PROGRAM": program},
    )
    if "mount:" in result.stderr:
        pytest.skip(f"this machine doesn't let root mount: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert "the disk is full" in result.stdout
    assert "b'old' ['m.ts']" in result.stdout


def test_a_kill_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "m.ts"
    target.write_bytes(b"the old file")
    # Stop when the bytes are on disk and before the file gets its name, print a line, and wait to be killed.
    program = EXPORT + (
        "import time; from segnets.deploy import _export as api\n"
        "def stop(*arguments):\n    print('written', flush=True); time.sleep(600)\n"
        "api.verify_loaded = stop\n"
        f"export(model, {str(target)!r}, preprocessing=small, target='portable')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"the old file"
    left = [p for p in tmp_path.iterdir() if p != target]
    assert len(left) == 1
    assert left[0].name.startswith(".segnets-")
    load_exported(left[0])  # complete under its temporary name


def test_paths_that_are_not_files_are_refused_before_opening(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ExportError, match="is not a regular file"):
            verify(path)
