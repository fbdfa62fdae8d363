"""The pickle machine builds inert values, runs nothing, and bounds its work."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections import OrderedDict, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segnets.errors import WeightsError
from tests.weights_tools.files import Bomb, rezip, saved
from weights_tools import convert, inspect
from weights_tools.reader._constructors import construct, storage_of
from weights_tools.reader._machine import Machine
from weights_tools.reader.values import Foreign, Global, OpaqueKey


def _run(data: bytes) -> Any:
    return Machine(memoryview(data), 0, construct, storage_of).run()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values(protocol: int) -> None:
    value = {
        "none": None,
        "bools": [True, False],
        "ints": [0, 255, 65535, -1, 1 << 31, -(1 << 70)],
        "floats": [0.5, -1e300],
        "text": "Käse \u2028",
        "nested": {"a": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))},
        "ordered": OrderedDict(x=1, y=2),
    }
    assert _run(pickle.dumps(value, protocol)) == value
    if protocol >= 3:
        assert _run(pickle.dumps(b"\0\xff", protocol)) == b"\0\xff"


@pytest.mark.parametrize("protocol", [2, 4])
def test_foreign_objects_stay_descriptions(protocol: int) -> None:
    value = [defaultdict(list, a=[1]), Decimal("1.5"), Path("/x"), np.float64(1), {1, 2}, frozenset([3]), ValueError]
    found = _run(pickle.dumps(value, protocol))
    assert all(isinstance(item, (Foreign, list, Global)) for item in found)
    assert repr(found[1]) == "<Foreign decimal.Decimal>"


def test_python_2_strings() -> None:
    assert _run(b"\x80\x02}q\x00U\x01wq\x01U\x02\xff\xfeq\x02s.") == {"w": b"\xff\xfe"}


def test_nested_keys_are_never_hashed() -> None:
    key: Any = ()
    for _ in range(40):
        key = (key, key)
    (found,) = _run(_deep_key(40))
    assert isinstance(found, OpaqueKey)


def _deep_key(depth: int) -> bytes:
    """Pickle {key: 1} with a nested key, (key, key) `depth` times; hashing such a key takes 2**depth steps."""
    return b"\x80\x02})" + b"2\x86" * depth + b"K\x01s."


BOMBS: dict[str, tuple[bytes, str]] = {
    "endless stack": (b"\x80\x02" + b"N" * 700_000 + b".", "stacks more than 500,000 values"),
    "endless steps": (b"\x80\x02" + b"N0" * 1_500_000 + b".", "takes more than 1,000,000 steps"),
    "endless memo": (b"\x80\x04N" + b"\x94" * 600_000 + b".", "memoizes more than 500,000 values"),
    "huge integer": (
        b"\x80\x02\x8b" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20) + b".",
        "an integer of 1,048,576 bytes",
    ),
    "long digits": (b"I" + b"9" * 3000 + b"\n.", "an integer of 3,000 digits"),
    "text beyond the end": (b"\x80\x02X\xff\xff\xff\x7fab", "ends early"),
    "unterminated line": (b"c" + b"a" * 9000, "a line of text without an end"),
    "unknown opcode": (b"\x80\x02\xff.", "the opcode 0xff, which no checkpoint needs"),
    "extension registry": (b"\x80\x02\x82\x01.", "the opcode 0x82"),
    "out-of-band buffer": (b"\x80\x05\x97.", "the opcode 0x97"),
    "unknown protocol": (b"\x80\x09N.", r"the unknown protocol 9 \(the newest is 5\)"),
    "no stop": (b"\x80\x02N", "ends early"),
    "empty stack": (b"\x80\x02.", "damaged near byte 3"),
    "no mark": (b"\x80\x02Nt.", "a mark is missing"),
    "mark as value": (b"\x80\x02(.", "a value is missing"),
    "unknown memo": (b"\x80\x02h\x07.", "a value is recalled that was never stored"),
    "odd dictionary": (b"\x80\x02}(Nu.", "a dictionary has a key without a value"),
    "key twice": (b"\x80\x02}(X\x01\x00\x00\x00wNX\x01\x00\x00\x00wNu.", "holds the key 'w' twice"),
    "text storage": (b"Pstorage\n.", "refers to storages by text"),
    "unknown reference": (b"\x80\x02NQ.", "an external object that is not a tensor storage"),
    "class without name": (b"\x80\x04NN\x93.", "a class name is not text"),
    "bad UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "damaged near byte"),
    "storage as tensor": (b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.", "a tensor lacks its storage"),
    "short tensor": (b"ctorch._utils\n_rebuild_tensor_v2\n(NtR.", "a tensor lacks its size"),
    "pairs": (b"ccollections\nOrderedDict\n((lK\x01atR.", "is not made from pairs"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_and_damaged_pickles_are_refused(case: str) -> None:
    data, message = BOMBS[case]
    start = time.monotonic()
    with pytest.raises(WeightsError, match=message):
        _run(data)
    assert time.monotonic() - start < 5


def test_deep_nesting_does_not_overflow_the_stack() -> None:
    _run(b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".")
    _run(b"\x80\x02N" + b"\x85" * 300_000 + b".")


def test_repeated_long_arguments_cost_steps() -> None:
    """Refuse repeated calls of OrderedDict with the same 9,000 pairs."""
    pairs = b"](" + b"".join(b"(X\x04\x00\x00\x00%04dNt" % i for i in range(9000)) + b"e"
    call = b"ccollections\nOrderedDict\nh\x00\x85R0"
    with pytest.raises(WeightsError, match="takes more than 1,000,000 steps"):
        _run(b"\x80\x02" + pairs + b"q\x00" + call * 500 + b"N.")


GADGETS: dict[str, bytes] = {
    "reduce": b"\x80\x02cposix\nmkdir\nX%s\x85R.",
    "instance": b"(X%siposix\nmkdir\n.",
    "object": b"(cposix\nmkdir\nX%so.",
    "new object": b"\x80\x02cposix\nmkdir\nX%s\x85\x81.",
    "getattr": b"\x80\x02cbuiltins\ngetattr\ncposix\nX\x05\x00\x00\x00mkdir\x86RX%s\x85R.",
    "stack global": b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93X%s\x85R.",
    "dotted": b"\x80\x04\x8c\x02os\x8c\x0bpath.os.mkdir\x93X%s\x85R.",
    "build": b"\x80\x02cposix\nmkdir\nX%s\x85RX%sb.",
    "nested in a tensor": b"ctorch._utils\n_rebuild_parameter\n(cposix\nmkdir\nX%s\x85Rtt.",
    "eval": b"\x80\x02cbuiltins\neval\nX%s\x85R.",
}


@pytest.mark.parametrize("case", GADGETS)
def test_nothing_is_executed(tmp_path: Path, case: str) -> None:
    marker = str(tmp_path / "executed").encode()
    data = GADGETS[case].replace(b"%s", len(marker).to_bytes(4, "little") + marker)
    if case == "getattr":
        data = data.replace(b"cposix\nX", b"cposix\nmkdir\nX")
    rezip(tmp_path / "w.pth", {"data.pkl": data})
    with pytest.raises(WeightsError):
        convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.__import__", _no_import(__import__))
        _try(data)
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def _no_import(real: Any) -> Any:
    def importing(name: str, *arguments: Any, **options: Any) -> Any:
        assert name.split(".")[0] in ("weights_tools", "segnets", "pytest"), f"reading imported {name}"
        return real(name, *arguments, **options)

    return importing


def _try(data: bytes) -> None:
    with contextlib.suppress(WeightsError):
        _run(data)


def test_functions_under_other_keys_are_ignored_and_listed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    content = {"model": state, "callback": getattr, "sorter": print}
    torch.save(content, tmp_path / "w.pth", pickle_protocol=4)
    report = convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    assert "callback (builtins.getattr)" in report.ignored


def test_inspect_reports_an_attack(tmp_path: Path, state: dict[str, Tensor]) -> None:
    (tmp_path / "w.pth").write_bytes(saved({"model": state, "x": Bomb(tmp_path / "executed")}))
    report = inspect(tmp_path / "w.pth")
    assert report.doubts == ("the file names posix.mkdir, which an attack needs and a checkpoint does not",)
    assert report.refused == "the file is probably an attack; nothing in it was run"
    assert not (tmp_path / "executed").exists()


def test_exponentially_nested_list_is_ignored_quickly(tmp_path: Path, state: dict[str, Tensor]) -> None:
    laughs: list[Any] = ["ha"]
    for _ in range(28):
        laughs = [laughs, laughs]
    start = time.monotonic()
    torch.save({"joke": laughs}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"no tensors named .* but the keys joke \(list\)"):
        convert(tmp_path / "w.pth", tmp_path / "out.safetensors")
    torch.save({"model": state, "joke": laughs, 5: laughs}, tmp_path / "w.pth")
    assert convert(tmp_path / "w.pth", tmp_path / "out.safetensors").ignored == ("joke (list)", "5 (list)")
    assert time.monotonic() - start < 5
