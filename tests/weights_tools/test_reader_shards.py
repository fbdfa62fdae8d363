"""Sharded checkpoints are read as one, and refused if index and files disagree."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import segnets
from segnets.errors import OutputError, WeightsError
from segnets.weights import read_weights_file
from tests.weights_tools.files import Bomb, assert_same, saved, sharded
from weights_tools import convert, inspect
from weights_tools.reader import open_checkpoint
from weights_tools.reader.limits import MAX_INDEX_BYTES, MAX_SHARDS, MAX_TENSORS
from weights_tools.reader.tensors import TensorReader

State = dict[str, Tensor]
SMALL = {f"conv{i}.weight": torch.full((2, 3), float(i)) for i in range(6)}
FIRST, SECOND, THIRD = (f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("safetensors", {}), ("torch", {}), ("torch", {"_use_new_zipfile_serialization": False})],
    ids=["safetensors", "zip", "legacy"],
)
def test_sharded_checkpoint_converts_like_one_file(tmp_path: Path, state: State, kind: str, options: Any) -> None:
    index = sharded(tmp_path, state, kind, **options)
    report = inspect(index)
    assert report.refused is None
    assert report.container == f"sharded {kind}"
    assert report.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert any(note.startswith("the tensors are in 3 other files: ") for note in report.notes)
    assert inspect(index, data=False).model == report.model == "lraspp_mobilenet_v3_large"
    done = convert(index, tmp_path / "out.safetensors")
    assert_same(dict(segnets.load(tmp_path / "out.safetensors").state_dict()), state)
    assert done.container == f"sharded {kind}"


def test_sha256_covers_the_index_and_every_file(tmp_path: Path, state: State) -> None:
    index = sharded(tmp_path, state)
    report = convert(index, tmp_path / "out.safetensors")
    command = ["sha256sum", index.name, FIRST, SECOND, THIRD]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert report.source_sha256 == hashlib.sha256(printed).hexdigest() == inspect(index).sha256
    card = read_weights_file(tmp_path / "out.safetensors").card
    assert card is not None
    assert card.provenance["source_sha256"] == report.source_sha256
    assert card.provenance["source_file"] == index.name


def test_flipped_bit_in_one_file_is_refused(tmp_path: Path, state: State) -> None:
    index = sharded(tmp_path, state, "torch")
    part = tmp_path / "pytorch_model-00002-of-00003.bin"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{index.name}: file '{part.name}': the entry .* is damaged: checksum"):
        convert(index, tmp_path / "out.safetensors")


def test_reading_takes_no_more_memory_than_the_files(tmp_path: Path, state: State) -> None:
    index = sharded(tmp_path, state, "torch", _use_new_zipfile_serialization=False)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    tracemalloc.start()
    try:
        with open_checkpoint(index) as (content, container):
            reader = TensorReader(content, container)
            assert isinstance(container.top, dict)
            read = {name: reader.read(name, ref) for name, ref in container.top.items()}
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert_same(read, state)
    assert peak < 1.2 * total


def _index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


def _text(folder: Path, text: bytes) -> None:
    (folder / "model.safetensors.index.json").write_bytes(text)


def _shard(folder: Path, name: str, tensors: State) -> None:
    save_file(tensors, folder / name, {"format": "pt"})


def _link_out(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / FIRST).rename(folder / "elsewhere" / "real")
    (folder / FIRST).symlink_to("elsewhere/real")


def _loop(folder: Path) -> None:
    (folder / FIRST).unlink()
    (folder / FIRST).symlink_to(FIRST)


def _folder(folder: Path) -> None:
    (folder / FIRST).unlink()
    (folder / FIRST).mkdir()


def _pipe(folder: Path) -> None:
    (folder / FIRST).unlink()
    os.mkfifo(folder / FIRST)


def _script(folder: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 3))

    torch.jit.save(torch.jit.script(Net()), folder / FIRST)


PLAIN = "which is not a plain name. The files must be in the folder of the index."
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (
        lambda d: (d / SECOND).unlink(),
        f"1 of the 3 files listed in the index are missing: {SECOND}. Put them into the folder of the index.",
    ),
    "parent": (lambda d: _index(d, lambda m: m.update(x=f"../{FIRST}")), f"lists the file '../{FIRST}', {PLAIN}"),
    "dots": (lambda d: _index(d, lambda m: m.update(x="..")), f"lists the file '..', {PLAIN}"),
    "absolute": (lambda d: _index(d, lambda m: m.update(x="/etc/passwd")), f"the file '/etc/passwd', {PLAIN}"),
    "drive": (lambda d: _index(d, lambda m: m.update(x="C:x")), f"the file 'C:x', {PLAIN}"),
    "backslash": (lambda d: _index(d, lambda m: m.update(x="a\\b")), f"the file 'a\\\\b', {PLAIN}"),
    "folder in it": (lambda d: _index(d, lambda m: m.update(x="a/b")), f"the file 'a/b', {PLAIN}"),
    "empty name": (lambda d: _index(d, lambda m: m.update(x="")), f"the file '', {PLAIN}"),
    "NUL": (lambda d: _index(d, lambda m: m.update(x="a\0b")), f"the file 'a\\x00b', {PLAIN}"),
    "surrogate": (lambda d: _index(d, lambda m: m.update(x="\ud800")), f"the file '\\ud800', {PLAIN}"),
    "number": (lambda d: _index(d, lambda m: m.update(x=3)), "has no 'weight_map' from tensor names to file names"),
    "link outside": (_link_out, f"file '{FIRST}': the file is a link to a file outside the index's folder"),
    "link to itself": (_loop, f"file '{FIRST}': the file can't be opened: Too many levels of symbolic links"),
    "pipe": (_pipe, f"file '{FIRST}': the path is a device, pipe or socket"),
    "folder": (
        _folder,
        f"file '{FIRST}': the path is a folder",
    ),
    "page": (lambda d: (d / FIRST).write_text("<html>"), f"file '{FIRST}': the file is a web page (HTML)"),
    "truncated": (
        lambda d: (d / FIRST).write_bytes((d / FIRST).read_bytes()[:-4]),
        f"file '{FIRST}': the file is truncated",
    ),
    "tensor lacks": (
        lambda d: _shard(d, FIRST, {"conv0.weight": SMALL["conv0.weight"]}),
        f"the file '{FIRST}' lacks the tensor 'conv3.weight', which the index lists there. Download all",
    ),
    "tensors lack": (
        lambda d: _index(d, lambda m: m.update(x=FIRST, y=SECOND)),
        f"the file '{FIRST}' lacks the tensor 'x', which the index lists there (1 more are missing)",
    ),
    "in another file": (
        lambda d: _index(d, lambda m: m.update({"conv0.weight": SECOND})),
        f"the file '{SECOND}' lacks the tensor 'conv0.weight'",
    ),
    "not listed": (
        lambda d: _index(d, lambda m: m.pop("conv4.weight")),
        f"the file '{SECOND}' holds 'conv4.weight', which the index does not list",
    ),
    "twice": (
        lambda d: _shard(d, SECOND, {n: SMALL[n] for n in ("conv0.weight", "conv1.weight", "conv4.weight")}),
        f"the tensor 'conv0.weight' is in two files, '{FIRST}' and '{SECOND}'",
    ),
    "mixed": (
        lambda d: (d / FIRST).write_bytes(saved({n: SMALL[n] for n in ("conv0.weight", "conv3.weight")})),
        "the listed files differ in kind or byte order (safetensors, torch zip)",
    ),
    "a program": (_script, f"file '{FIRST}': the file is a TorchScript archive, which can't be part of a checkpoint"),
    "index in the index": (
        lambda d: _index(d, lambda m: m.update(x="model.safetensors.index.json")),
        "file 'model.safetensors.index.json': the file is an index of other files",
    ),
    "many files": (
        lambda d: _index(d, lambda m: m.update({f"x{i}": f"f{i}" for i in range(10_000)})),
        f"the index lists 10,003 files (at most {MAX_SHARDS} are accepted)",
    ),
    "many tensors": (
        lambda d: _index(d, lambda m: m.update({f"x{i}": FIRST for i in range(MAX_TENSORS + 1)})),
        f"the index lists {MAX_TENSORS + 7:,} tensors, more than any network has",
    ),
    "large index": (
        lambda d: _text(d, b'{"weight_map":' + b" " * MAX_INDEX_BYTES + b"{}}"),
        f"the index has {MAX_INDEX_BYTES + 17:,} bytes (at most {MAX_INDEX_BYTES:,} are accepted)",
    ),
    "no tensors": (lambda d: _text(d, b'{"weight_map": {}}'), "the index lists no tensors"),
    "no map": (lambda d: _text(d, b'{"weight_map": []}'), "the index has no 'weight_map'"),
    "only mentioned": (lambda d: _text(d, b'{"a": {"weight_map": {}}}'), "the index has no 'weight_map'"),
    "name twice": (
        lambda d: _text(d, b'{"weight_map": {"a": "b", "a": "c"}}'),
        "the index holds the name 'a' twice",
    ),
    "deep": (
        lambda d: _text(d, b'{"weight_map": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "the index is nested too deeply",
    ),
    "not UTF-8": (lambda d: _text(d, b'{"weight_map": "\xff"}'), "the index is not UTF-8 text"),
    "not JSON": (lambda d: _text(d, b'{"weight_map": '), "the index is damaged: it is not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_index_and_files_that_disagree_are_refused(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    index = sharded(folder, SMALL)
    change, message = BROKEN[case]
    change(folder)
    for data in (True, False):
        with pytest.raises(WeightsError) as error:
            inspect(index, data=data)
        assert message in str(error.value)
        assert str(error.value).startswith(f"{index}: ")
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(WeightsError) as error:
        convert(index, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


def test_no_file_outside_the_folder_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    index = sharded(folder, SMALL)
    save_file(SMALL, tmp_path / "secret")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(SMALL, "../secret")}))
    opened_paths: list[str] = []
    real = os.open

    def open_and_note(path: Path, *rest: Any) -> int:
        opened_paths.append(str(path))
        return real(path, *rest)

    monkeypatch.setattr("os.open", open_and_note)
    with pytest.raises(WeightsError, match=r"the index lists the file '\.\./secret'"):
        inspect(index)
    assert opened_paths == [str(index)]


def test_links_of_a_hub_cache_are_followed(tmp_path: Path, state: State) -> None:
    """Accept an index and files that are links into one other folder."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    index = sharded(snapshot, state)
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / f"{number:064}")
        path.symlink_to(f"../../blobs/{number:064}")
    assert inspect(index).model == "lraspp_mobilenet_v3_large"


def test_source_files_are_never_replaced(tmp_path: Path, state: State) -> None:
    index = sharded(tmp_path, state)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in (FIRST, THIRD):
        with pytest.raises(OutputError, match=r"is the source file\. Choose another name for the output"):
            convert(index, tmp_path / name, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_attack_in_one_file_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path, SMALL, "torch")
    part = tmp_path / "pytorch_model-00001-of-00003.bin"
    part.write_bytes(
        saved({**{n: SMALL[n] for n in ("conv0.weight", "conv3.weight")}, "x": Bomb(tmp_path / "executed")})
    )
    with pytest.raises(
        WeightsError, match=rf"the file '{part.name}' holds 'x' \(posix\.mkdir\), which is not a tensor"
    ):
        inspect(index)
    assert not (tmp_path / "executed").exists()


def test_single_part_is_reported_with_its_index(tmp_path: Path, state: State) -> None:
    index = sharded(tmp_path, state)
    hint = f"he file's name marks it as part 2 of 3. Pass the index of all parts, '{index.name}'"
    report = inspect(tmp_path / SECOND)
    assert report.refused is not None
    assert f"t{hint}" in report.notes
    with pytest.raises(WeightsError) as error:
        convert(tmp_path / SECOND, tmp_path / "out.safetensors")
    assert f". T{hint}." in str(error.value).splitlines()[0]
    with pytest.raises(WeightsError, match=rf"the path is a folder\. Pass the index in it, '{index.name}'"):
        inspect(tmp_path)


def test_files_larger_than_memory_in_total_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    index = sharded(tmp_path, state)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr("weights_tools.reader.source.available_memory", lambda: total + (64 << 20) - 1)
    with pytest.raises(WeightsError, match=r"larger \(0\.0 GB\) than the free memory \(0\.1 GB\)"):
        inspect(index)
