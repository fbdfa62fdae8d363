"""Files that cost as much as possible to read: at the limits that the reader allows, in few bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

from segnets.card import JSON, ModelCard, ModelConfig
from segnets.weights.description import METADATA_KEY, encode
from tests.fuzz.structure import Document, Entry
from weights_tools.reader.identify import LEGACY_MAGIC
from weights_tools.reader.limits import MAX_ENTRIES, MAX_OPCODES, MAX_PICKLE_BYTES, MAX_STACK, MAX_TENSORS

_TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\nq\1((X\7\0\0\0storageq\2ctorch\nFloatStorage\nq\3X\1\0\0\0000q\4X\3\0\0\0cpu"
    b"K\1tQK\0K\1\x85K\1\x85\x89}tRq\0"
)
_ABOUT = MAX_OPCODES * 9 // 10
_TEXT = 60 << 20


def costliest_files() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield each name with a function that returns the file's content; together they would fill the memory."""
    for name, pickle in _pickles():
        yield name, partial(_zip, pickle)
    legacy = LEGACY_MAGIC + b"\x80\x02M\xe9\x03.\x80\x02}.\x80\x02" + b"K\1" * (MAX_STACK - 1) + b".\x80\x02]."
    yield "a legacy file of many numbers", lambda: legacy
    yield "many entries", _entries
    for name, header in _headers():
        yield name, partial(_safetensors, header)


def _pickles() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield pickles without their first and last opcodes."""
    text = b"X" + _TEXT.to_bytes(4, "little") + b"a" * _TEXT + b"q\0"
    yield "as many opcodes as allowed", lambda: b"N0" * (_ABOUT // 2) + b"N"
    yield "too many opcodes", lambda: b"N0" * MAX_OPCODES
    yield "a full stack", lambda: b"}" * (MAX_STACK - 1)
    yield "a full memo", lambda: b"".join(b"]r" + index.to_bytes(4, "little") for index in range(_ABOUT // 2))
    yield "one long text as the name of a class, again and again", lambda: text + b"h\0h\0\x930" * (_ABOUT // 4) + b"N"
    yield "one long text as a key, in dictionaries without end", lambda: text + b"}h\0Ns0" * (_ABOUT // 5) + b"N"
    yield "one long text as the name of a storage", lambda: text + _TENSOR.replace(b"X\1\0\0\0000q\4", b"h\0")
    yield "one long text called", lambda: b"c__torch__\nA\nq\1" + text + b"h\1h\0\x85R0" * (_ABOUT // 6) + b"N"
    yield "many names of classes", lambda: b"".join(b"cos\nf%d\n0" % index for index in range(_ABOUT // 2)) + b"N"
    yield "values nested deep", lambda: b"]" * (MAX_STACK - 2) + b"a" * (MAX_STACK - 3)
    yield "tuples nested deep", lambda: b")" + b"\x85" * _ABOUT
    yield "a billion laughs", lambda: b"]q\0" + b"(h\0h\0h\0h\0h\0h\0h\0h\0lq\0" * (_ABOUT // 30)
    yield "a list in itself", lambda: b"]q\0" + b"h\0a" * (_ABOUT // 2)
    yield "many digits", lambda: (b"I" + b"9" * 599 + b"\n0") * 100_000 + b"N"
    yield "many lines", lambda: b"I1\n0" * (_ABOUT // 2) + b"N"
    yield "many tensors", lambda: b"}(" + _tensors(MAX_TENSORS) + b"u"
    yield "many tensors in a dictionary too large", lambda: b"}(" + _tensors(60_000) + b"u"
    yield "one tensor under many names", lambda: _TENSOR + b"0}(" + _keys(400_000, b"h\0") + b"u"
    model = b"X\5\0\0\0model}X\1\0\0\0w" + _TENSOR + b"s"
    yield "many numbers next to a tensor", lambda: b"}(" + _keys(440_000, b"K\1") + model + b"u"
    yield (
        "many dictionaries of tensors",
        lambda: _TENSOR + b"0}X\1\0\0\0wh\0sq\5" + b"0}(" + _keys(400_000, b"h\5") + b"u",
    )
    yield "many candidates", _candidates
    yield (
        "an ordered dictionary of pairs",
        lambda: b"ccollections\nOrderedDict\n((" + b"K\1K\1\x86" * (_ABOUT // 4) + b"ltR",
    )
    yield "modules that refer to each other", _modules
    yield "many attributes", lambda: b"c__torch__\nA\n)\x81}(" + _keys(440_000, b"K\1") + b"ub"
    yield "names with a common prefix", lambda: _TENSOR + b"0}(" + _keys(MAX_TENSORS, b"h\0", b"layer1." * 50) + b"u"
    yield "many dots", lambda: _TENSOR + b"0}(" + _keys(MAX_TENSORS, b"h\0", b"a." * 150) + b"u"
    yield "a body larger than its limit", lambda: bytes(MAX_PICKLE_BYTES)


def _keys(count: int, value: bytes, prefix: bytes = b"k") -> bytes:
    keys = [prefix + b"%d" % index for index in range(count)]
    return b"".join(b"X" + len(key).to_bytes(4, "little") + key + value for key in keys)


def _tensors(count: int) -> bytes:
    return b"".join(b"X\6\0\0\0" + b"%06d" % index + _TENSOR for index in range(count))


def _candidates() -> bytes:
    """Return nested dictionaries, each with thousands of names for the next one."""
    made = _TENSOR + b"0}X\1\0\0\0wh\0sq\5"
    for _ in range(4):
        made += b"0}(" + _keys(3000, b"h\5") + b"uq\5"
    return made


def _modules() -> bytes:
    made = b"c__torch__\nA\nq\6)\x81}X\1\0\0\0w" + _TENSOR + b"sbq\5"
    for _ in range(90):
        made += b"0h\6)\x81}(" + _keys(40, b"h\5") + b"ubq\5"
    return made


def _entries() -> bytes:
    entries = [Entry(b"archive/data.pkl", b"\x80\x02}.")]
    entries += [Entry(b"archive/data/%d" % index, b"a") for index in range(MAX_ENTRIES - 1)]
    return Document("zip", entries=entries, aligned=False).to_bytes()


def _zip(make: Callable[[], bytes]) -> bytes:
    pickle = b"\x80\x02" + make() + b"."
    constants = Entry(b"archive/constants.pkl", b"\x80\x02).") if b"__torch__" in pickle else Entry(b"archive/x", b"")
    main = Entry(b"archive/data.pkl", pickle, packed=len(pickle) > 1 << 16)
    return Document("zip", entries=[main, constants, Entry(b"archive/data/0", b"\0\0\x80?")]).to_bytes()


def _safetensors(make: Callable[[], bytes]) -> bytes:
    header = make()
    return len(header).to_bytes(8, "little") + header


def _headers() -> Iterator[tuple[str, Callable[[], bytes]]]:
    nothing = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    yield "a header of many tensors", lambda: json.dumps({f"{index}": nothing for index in range(MAX_TENSORS)}).encode()
    yield "a header of too many tensors", lambda: json.dumps({f"{index}": nothing for index in range(370_000)}).encode()
    yield "a shape without end", lambda: json.dumps({"w": {**nothing, "shape": [0] * 8_000_000}}).encode()
    yield "a header nested deep", lambda: b'{"a":' + b"[" * 12_000_000 + b"]" * 12_000_000 + b"}"
    yield "a header of many digits", lambda: b'{"a":[' + b",".join([b"9" * 4000] * 6000) + b"]}"
    yield "much metadata", lambda: json.dumps({"__metadata__": {f"{index}": "" for index in range(1_000_000)}}).encode()
    values: tuple[tuple[str, JSON], ...] = (
        ("atrous_rates", [1] * 500_000),
        ("multi_grid", [1] * 500_000),
        ("num_classes", 1 << 20),
    )
    for option, value in values:
        description = encode(ModelConfig("deeplabv3_resnet152", {option: value}), ModelCard())
        metadata = {"__metadata__": {METADATA_KEY: description}, "w": nothing}
        yield f"a description with much {option}", json.dumps(metadata).encode
