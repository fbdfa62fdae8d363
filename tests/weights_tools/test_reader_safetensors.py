"""Safetensors files that violate the format are refused, also those that other readers accept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from segnets.errors import WeightsError
from tests.weights_tools.files import assert_same
from weights_tools import convert, inspect
from weights_tools.reader import open_checkpoint
from weights_tools.reader.tensors import TensorReader


def _file(header: Any, data: bytes = bytes(8), *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _entry(begin: int = 0, end: int = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN: dict[str, tuple[bytes, str]] = {
    "header beyond the file": (_file({"w": _entry()}, length=10_000), "truncated inside the safetensors header"),
    "header of 200 MB": (
        _file({"w": _entry()}, length=200_000_000),
        "claims 200,000,000 bytes (at most 25,000,000 are accepted)",
    ),
    "header of 2^63": (_file({"w": _entry()}, length=1 << 63), "claims 9,223,372,036,854,775,808 bytes"),
    "overlap": (_file({"a": _entry(), "b": _entry(4, 12)}, bytes(12)), "the tensor 'b' overlaps the one before it"),
    "hole": (_file({"a": _entry(), "b": _entry(12, 20)}, bytes(20)), "the tensor 'b' leaves a hole before it"),
    "leading hole": (_file({"a": _entry(4, 12)}, bytes(12)), "the tensor 'a' leaves a hole before it"),
    "trailing": (_file({"w": _entry()}, bytes(12)), "the file has 4 bytes after the last tensor"),
    "short": (_file({"w": _entry()}, bytes(4)), "the file is truncated ("),
    "negative": (_file({"w": _entry(-8, 0)}), "data_offsets that are not two ascending natural numbers"),
    "descending": (_file({"w": _entry(8, 0)}), "data_offsets that are not two ascending natural numbers"),
    "overflow": (_file({"w": _entry(0, 8, (1 << 40, 1 << 40))}), "has 8 bytes, but its shape and dtype need"),
    "large number": (_file({"w": _entry(0, 8, (1 << 64,))}), "a shape that is not a short list of natural numbers"),
    "dtype": (_file({"w": _entry(dtype="F33")}), "the tensor 'w' has the unknown dtype 'F33' (known: F64, F32"),
    "dtype number": (_file({"w": _entry(dtype=7)}), "the tensor 'w' has the unknown dtype '7'"),
    "float shape": (_file({"w": _entry(shape=[2.0])}), "a shape that is not a short list of natural numbers"),
    "bool shape": (_file({"w": _entry(shape=[True, 2])}), "a shape that is not a short list of natural numbers"),
    "wrong size": (_file({"w": _entry(shape=[3])}), "has 8 bytes, but its shape and dtype need 12"),
    "more keys": (_file({"w": {**_entry(), "x": 1}}), "is not described by dtype, shape and data_offsets"),
    "no entry": (_file({"w": 3}), "is not described by dtype, shape and data_offsets"),
    "name twice": (
        _file(b'{"w":' + json.dumps(_entry()).encode() + b',"w":' + json.dumps(_entry()).encode() + b"}"),
        "the safetensors header holds the name 'w' twice",
    ),
    "not UTF-8": (_file(b'{"\xff\xfe":1}'), "the safetensors header is not UTF-8 text"),
    "byte order mark": (_file(b'\xef\xbb\xbf{"w":1}'), "does not begin with '{'"),
    "leading space": (_file(b' {"w":1}'), "does not begin with '{'"),
    "not JSON": (_file(b'{"w": '), "the safetensors header is damaged: it is not JSON"),
    "NaN": (_file(b'{"w": NaN}'), "the safetensors header is damaged: it is not JSON"),
    "deep": (_file(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "is nested too deeply"),
    "metadata number": (
        _file({"__metadata__": {"a": 1}, "w": _entry()}),
        "the safetensors metadata holds a value that is not text",
    ),
    "metadata list": (
        _file({"__metadata__": [], "w": _entry()}),
        "the safetensors metadata holds a value that is not text",
    ),
    "no tensors": (_file({}, b""), "no tensors named like the parameters of a network"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_files_that_break_the_format_are_refused(tmp_path: Path, case: str, name: str) -> None:
    content, message = BROKEN[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        convert(path, tmp_path / "out.safetensors")
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_unusual_valid_files_are_read(tmp_path: Path) -> None:
    """Read tensors without dimensions or elements, several dtypes, and names with brackets."""
    tensors = {
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "[odd}": torch.ones(2, dtype=torch.uint8),
        **{str(d): torch.ones(3).to(d) for d in (torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.int8)},
    }
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(tensors))
    with open_checkpoint(path) as (source, container):
        assert isinstance(container.top, dict)
        reader = TensorReader(source, container)
        assert_same({name: reader.read(name, ref) for name, ref in container.top.items()}, tensors)


def test_unaligned_tensors_are_read(tmp_path: Path) -> None:
    header = json.dumps({"a": _entry(0, 3, (3,), "U8"), "b": _entry(3, 11, (1,), "F64")}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(_file(header + b" " * ((3 - len(header)) % 8), b"abc" + bytes(6) + b"\xf0\x3f"))
    with open_checkpoint(path) as (source, container):
        assert isinstance(container.top, dict)
        assert TensorReader(source, container).read("b", container.top["b"]).tolist() == [1.0]


def test_damaged_description_of_segnets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(_file({"__metadata__": {"segnets": "{"}, "w": _entry()}))
    report = inspect(path)
    assert report.refused is not None
    assert "its description is not JSON" in report.refused
