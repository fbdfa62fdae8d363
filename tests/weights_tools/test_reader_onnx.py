"""ONNX models are refused with a description of them. The files are built by hand, field by field."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from segnets.errors import WeightsError
from weights_tools import convert, inspect


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _message(fields: Iterable[tuple[int, int | bytes | str]]) -> bytes:
    return b"".join(_field(number, value) for number, value in fields)


NODE = _message([(1, "x"), (2, "y"), (4, "Conv")])
WEIGHT = _message([(1, 64), (2, 1), (8, "backbone.conv1.weight"), (9, bytes(30_000))])
GRAPH = _message([*[(1, NODE)] * 900, (2, "main_graph"), (5, WEIGHT)])
OPSET = _message([(1, ""), (2, 20)])
CUSTOM = _message([(1, "com.microsoft"), (2, 1)])
MODEL = _message(
    [(1, 10), (2, "pytorch"), (3, "2.13.0"), (7, GRAPH), (8, OPSET), (8, CUSTOM), (14, _message([(1, "k"), (2, "v")]))]
)
HINT = ". Only PyTorch checkpoints can be converted: pass the checkpoint that the model was exported from."
CASES: dict[str, tuple[bytes, str]] = {
    "whole": (
        MODEL,
        "the file is an ONNX model (IR version 10, written by pytorch 2.13.0, opset 20, com.microsoft opset 1, "
        f"graph 'main_graph'){HINT}",
    ),
    "anonymous": (_message([(1, 3), (7, _message([(1, NODE)]))]), f"(IR version 3, a graph without a name){HINT}"),
    "opset first": (_message([(1, 8), (8, OPSET), (7, GRAPH)]), "(IR version 8, opset 20, graph 'main_graph')"),
    "truncated": (
        MODEL[:-500],
        f"a truncated ONNX model (IR version 10, written by pytorch 2.13.0, graph 'main_graph'){HINT}",
    ),
    "truncated in the nodes": (MODEL[:5000], "a truncated ONNX model (IR version 10, written by pytorch 2.13.0)"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["model.onnx", "w.pth"])
def test_onnx_models_are_described(tmp_path: Path, case: str, name: str) -> None:
    content, message = CASES[case]
    path = tmp_path / name
    path.write_bytes(content)
    for data in (True, False):
        with pytest.raises(WeightsError) as error:
            inspect(path, data=data)
        assert message in str(error.value)
        assert str(error.value).startswith(f"{path}: the file is a")
    with pytest.raises(WeightsError):
        convert(path, tmp_path / "out.safetensors")


OTHERS: dict[str, bytes] = {
    "another message": _message([(1, 10), (2, b"\xff\xfe"), (7, GRAPH)]),
    "unknown field": _message([(1, 10), (7, GRAPH), (200, b"x")]),
    "a number for a graph": _message([(1, 10), (7, 7)]),
    "no graph": _message([(1, 10), (2, "pytorch")]),
    "version of nothing": _message([(1, 1000), (7, GRAPH)]),
    "endless number": b"\x08" + b"\xff" * 50,
    "end of a group": b"\x08\x0a\x0c" + bytes(100),
    "many fields": _message([(1, 10)] * 30_000),
    "control characters": _message([(1, 10), (2, "\x1b[2J"), (7, GRAPH)]),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_protobuf_messages_are_not_taken_for_onnx(tmp_path: Path, case: str) -> None:
    path = tmp_path / "w.onnx"
    path.write_bytes(OTHERS[case])
    with pytest.raises(WeightsError) as error:
        inspect(path)
    assert "ONNX" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_damaged_models_are_refused_with_a_reason(tmp_path: Path) -> None:
    small = _message([(1, 10), (2, "pytorch"), (7, _message([(1, NODE), (2, "g")])), (8, OPSET)])
    path = tmp_path / "w.onnx"
    for content in [small[:end] for end in range(1, len(small))] + [
        small[:at] + bytes([small[at] ^ 0x55]) + small[at + 1 :] for at in range(1, len(small))
    ]:
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"the (file|model) "):
            inspect(path)
