"""Recognise ONNX models, to refuse them with a description.

A file is a protobuf message: a sequence of fields, each with a number, a wire type and usually a length. Only the outer
fields are parsed, and those of the graph up to its name. Source: onnx/onnx.proto of ONNX 1.19, `ModelProto`.
"""

from __future__ import annotations

from collections.abc import Iterator

from segnets.errors import WeightsError
from weights_tools.reader._export import EXPORTED
from weights_tools.reader.source import Source

_NUMBER, _BYTES = 0, 2
# The fields of ModelProto: ir_version, producer_name, producer_version, domain, model_version, doc_string, graph,
# opset_import, metadata_props, training_info, functions, configuration.
_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_PRODUCER, _VERSION, _GRAPH, _OPSET = 2, 3, 7, 8
_GRAPH_NAME = 2
_MAX_FIELDS = 20_000
_MAX_IR_VERSION = 100
_WHAT_TO_DO = "Only PyTorch checkpoints can be converted: pass the checkpoint that the model was exported from."

# A field: its number, its value if that is a number, and start and size of its bytes otherwise.
_Field = tuple[int, int, int, int]


class _NoMessageError(Exception):
    """Bytes that are not a `ModelProto` message."""


def explain(source: Source) -> str | None:
    """Return why an ONNX model is refused, or None for any other file."""
    facts: dict[int, str] = {}
    opsets: list[str] = []
    graph = ""
    try:
        for number, value, start, length in _fields(source, 0, source.size):
            if number not in _FIELDS or _FIELDS[number] != (_BYTES if start else _NUMBER):
                return None
            if number == 1:
                if not 0 < value < _MAX_IR_VERSION:
                    return None
                facts[number] = f"IR version {value}"
            elif number in (_PRODUCER, _VERSION):
                facts[number] = _text(source, start, length)
            elif number == _OPSET:
                opsets.append(_opset(source, start, length))
            elif number == _GRAPH:
                graph = _graph_name(source, start, length)
                facts[number] = f"graph {graph!r}" if graph else "a graph without a name"
    except _NoMessageError:
        return None
    except WeightsError:
        # A field exceeds the file. The producer's name is enough to recognise a truncated model.
        if 1 in facts and facts.get(_PRODUCER):
            return f"the file is a truncated ONNX model ({_describe(facts, opsets)}). {_WHAT_TO_DO}"
        return None
    if 1 not in facts or _GRAPH not in facts:
        return None
    if facts.get(_PRODUCER) == "segnets":
        return f"the file is an ONNX model that segnets exported ({_describe(facts, opsets)}). {EXPORTED}"
    return f"the file is an ONNX model ({_describe(facts, opsets)}). {_WHAT_TO_DO}"


def _describe(facts: dict[int, str], opsets: list[str]) -> str:
    producer = " ".join(text for number in (_PRODUCER, _VERSION) if (text := facts.get(number)))
    parts = [facts[1], f"written by {producer}" if producer else "", *opsets[:3], facts.get(_GRAPH, "")]
    return ", ".join(part for part in parts if part)


def _fields(source: Source, start: int, end: int) -> Iterator[_Field]:
    position = start
    for _ in range(_MAX_FIELDS):
        if position == end:
            return
        tag, position = _varint(source, position, end)
        number, kind = tag >> 3, tag & 7
        if kind == _NUMBER:
            value, position = _varint(source, position, end)
            yield number, value, 0, 0
        elif kind == _BYTES:
            length, position = _varint(source, position, end)
            if position + length > end:
                yield number, 0, position, end - position
                raise WeightsError("the model is truncated")
            yield number, 0, position, length
            position += length
        else:
            raise _NoMessageError
    raise _NoMessageError


def _varint(source: Source, position: int, end: int) -> tuple[int, int]:
    """Return a base-128 number, lowest bits first, and the position after it."""
    data = source.view(position, min(10, end - position))
    value = 0
    for count, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise WeightsError("the model is truncated") if len(data) < 10 else _NoMessageError


def _text(source: Source, start: int, length: int) -> str:
    try:
        text = bytes(source.view(start, min(length, 200))).decode("utf-8", "ignore" if length > 200 else "strict")
    except UnicodeDecodeError:
        raise _NoMessageError from None
    if not text.isprintable():
        raise _NoMessageError
    return text[:60]


def _opset(source: Source, start: int, length: int) -> str:
    domain, version = "", 0
    for number, value, at, size in _fields(source, start, start + length):
        if number == 1:
            domain = _text(source, at, size)
        elif number == 2:
            version = value
    return f"opset {version}" if domain in ("", "ai.onnx") else f"{domain} opset {version}"


def _graph_name(source: Source, start: int, length: int) -> str:
    try:
        for number, _, at, size in _fields(source, start, start + length):
            if number == _GRAPH_NAME and at:
                return _text(source, at, size)
    except _NoMessageError:  # too many nodes, or an unprintable name
        pass
    return ""
