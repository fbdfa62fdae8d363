"""Edit files part by part, so that checksums and lengths stay correct wherever they were not edited on purpose.

Without this, the checksums of a zip archive or the length of a safetensors header would stop nearly every change
before it reaches the code behind them. An edit is a function and the seed of its random choices: the same edits of the
same file give the same bytes, and a failing input is shortened by leaving edits out.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import math
import pickletools
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

from weights_tools.reader.identify import LEGACY_MAGIC

MAX_BYTES = 2 << 20
Pool: TypeAlias = Sequence[bytes]  # files to take pieces from
Edit: TypeAlias = "tuple[Callable[[Document, random.Random, Pool], None] | None, int]"  # None: of the bytes
# Names, opcodes and values that the formats use; bytes are written as Latin-1.
_DICTIONARY: dict[str, list[Any]] = json.loads(Path(__file__).with_name("dictionary.json").read_text())
_MAX_OPCODES = 6000  # opcodes split apart; the rest is one piece
_BITS = (0, 3, 6, 8, 15, 16, 31, 32, 48, 63, 64)
EDGES = tuple(sign * (1 << bits) + step for bits in _BITS for sign in (1, -1) for step in (0, -1))


@dataclass
class Entry:
    """A file in a zip archive, deflated if `packed`."""

    name: bytes
    data: bytes
    packed: bool = False


@dataclass
class Document:
    """One file in parts."""

    kind: str  # "zip", "pickles", "safetensors", "json" or "bytes"
    entries: list[Entry] = field(default_factory=list)
    # Header signatures, offsets, the bytes to write there, and which header (None for all).
    wrong_fields: list[tuple[bytes, int, bytes, int | None]] = field(default_factory=list)
    aligned: bool = True  # the entries start at multiples of 64 bytes, as torch writes them
    wide: bool = False  # the archive has zip64 records
    opcodes: Sequence[bytes] = ()  # of the pickles, with their arguments
    header: bytes = b""  # of a safetensors file, or all bytes of a JSON or other file
    length: int | None = None  # the header's length as the file states it, if not the true one
    tail: bytes = b""  # after the pickles or the header

    def to_bytes(self) -> bytes:
        """Return the file."""
        if self.kind == "zip":
            return _write_zip(self)
        if self.kind == "pickles":
            return b"".join(self.opcodes) + self.tail
        length = len(self.header) if self.length is None else self.length
        return (_fit(length, 8) if self.kind == "safetensors" else b"") + self.header + self.tail


def parse(data: bytes) -> Document:
    """Split a file into its parts; what can't be split is plain bytes."""
    if data.startswith(b"PK") and (entries := _read_zip(data)):
        return Document("zip", entries=[replace(entry) for entry in entries])
    if data[:1] == b"\x80" or data[:2] == b"(d":
        *opcodes, tail = split_pickles(data, 5 if data.startswith(LEGACY_MAGIC) else 1)
        return Document("pickles", opcodes=opcodes, tail=tail)
    end = 8 + int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and end <= len(data):
        return Document("safetensors", header=data[8:end], tail=data[end:])
    return Document("json" if data[:1] == b"{" else "bytes", header=data)


def draw(data: bytes, rng: random.Random) -> list[Edit]:
    """Choose one to eight edits that suit a file, most of them edits of its structure."""
    suited = EDITS[parse(data).kind]
    edits = [suited if suited and rng.random() < 0.9 else (None,) for _ in range(min(8, int(rng.expovariate(0.6)) + 1))]
    return [(rng.choice(edit), rng.getrandbits(32)) for edit in edits]


def apply(data: bytes, edits: Sequence[Edit], pool: Pool) -> bytes:
    """Return the file after the edits; those of its bytes come last."""
    document = parse(data)
    for edit, seed in edits:
        if edit and sum(len(entry.data) for entry in document.entries) + len(document.header) < 64 * MAX_BYTES:
            edit(document, random.Random(seed), pool)
    data = document.to_bytes()
    for edit, seed in edits:
        data = data if edit else _change(data, random.Random(seed), pool)
    return data[:MAX_BYTES]


def _change(data: bytes, rng: random.Random, pool: Pool) -> bytes:
    """Change bytes: flip a bit, write a number, cut, copy, or take a piece of another file."""
    at, to, span = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1), int(rng.expovariate(0.05)) + 1
    piece, kind = data[at : at + span], rng.randrange(6)
    if kind == 0:
        return data[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]
    if kind == 1:
        width = rng.choice((1, 2, 4, 8))
        new = _fit(rng.choice(EDGES), width) if rng.random() < 0.6 else rng.randbytes(width)
        return data[:at] + (new if rng.random() < 0.5 else new[::-1]) + data[at + width :]
    if kind == 2:
        return data[:at] + (data[at + span :] if rng.random() < 0.7 else b"")
    if kind == 3:
        return data[:to] + piece * (1 if rng.random() < 0.5 else _times(rng, len(piece))) + data[to:]
    other = rng.choice(pool)
    there = rng.randrange(len(other) + 1)
    return data[:at] + (other[there:] if kind == 4 else other[there : there + span] + data[at:])


def _times(rng: random.Random, size: int) -> int:
    """Choose how often to repeat `size` bytes: mostly a few times, rarely very often."""
    often = rng.random() < 0.003
    count = 1 << 17 if often else rng.choice((2, 2, 3, 10, 100, 1000))
    return min(count, (1 << 18 if often else 1 << 12) // max(size, 1))


def _fit(value: int, width: int) -> bytes:
    return (value & (1 << 8 * width) - 1).to_bytes(width, "little")


def _word(rng: random.Random, name: str) -> bytes:
    return str(rng.choice(_DICTIONARY[name])).encode("latin-1")


# Opcodes without an argument: stack, memo, containers, calls, constants.
_BARE = [bytes((code,)) for code in b"(.0121)Nl]}dabtseo\x85\x86\x87\x88\x89R\x81\x8f\x90\x91\x92\x93\x94QPbq"]
_LOCAL, _CENTRAL, _END = b"PK\3\4", b"PK\1\2", b"PK\5\6"  # headers of an entry, and the end of the directory


def _zip_entry(document: Document, rng: random.Random, pool: Pool) -> None:
    """Change the content or name of an entry, whether it is deflated, or how often it is there."""
    entry, other, kind = rng.choice(document.entries), rng.choice(document.entries), rng.randrange(7)
    if kind == 0:
        entry.data = _word(rng, "entry_contents") if rng.random() < 0.2 else _change(entry.data, rng, pool)
    elif kind == 1:
        entry.name = _word(rng, "entry_names") if rng.random() < 0.6 else _change(entry.name, rng, pool)[:60_000]
    elif kind == 2:
        for each in document.entries if rng.random() < 0.3 else [entry]:
            each.packed = not each.packed
    elif kind == 3:  # a compression bomb
        size = rng.choice((1 << 10, 1 << 14, 1 << 16)) if rng.random() < 0.95 else rng.choice((1 << 20, 24 << 20))
        entry.packed = True
        entry.data += rng.choice((b"\0", b"0", b"(", b"}", b"]", b"N", b"I1\n", b"K\1")) * size
    elif kind == 4 and len(document.entries) > 1:
        document.entries.remove(entry)
    elif kind == 5:
        entry.data, other.data = other.data, entry.data
    else:
        same = rng.random() < 0.3
        for index in range(1 if same else _times(rng, len(entry.data) + 200)):
            copy = replace(entry, name=entry.name + (b"" if same else b"%d" % index))
            document.entries.insert(rng.randrange(len(document.entries) + 1), copy)


def _zip_headers(document: Document, rng: random.Random, _pool: Pool) -> None:
    """Write wrong fields into headers or the end record, no checksums, another alignment or zip64 records."""
    kind, which = rng.randrange(10), rng.randrange(len(document.entries))
    if kind < 7:
        header, size = rng.choice(((_LOCAL, 30), (_CENTRAL, 46), (_END, 22)))
        value = _fit(rng.choice(EDGES) if rng.random() < 0.7 else rng.randrange(64), rng.choice((2, 4)))
        offset = rng.randrange(4, size, 2)
        document.wrong_fields.append((header, offset, value, 0 if header == _END else which))
        if header == _LOCAL and rng.random() < 0.5:  # most fields stand in the directory, too
            document.wrong_fields.append((_CENTRAL, offset + 2, value, which))
    elif kind == 7:  # as torch.save writes with compute_crc32=False
        document.wrong_fields += [(_LOCAL, 14, bytes(4), None), (_CENTRAL, 16, bytes(4), None)]
    elif kind == 8:
        document.aligned = not document.aligned
    else:
        document.wide = not document.wide


@functools.lru_cache(maxsize=256)
def _read_zip(data: bytes) -> tuple[Entry, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = [info for info in archive.infolist() if info.file_size < 1 << 22]
            return tuple(Entry(i.orig_filename.encode(), archive.read(i), i.compress_type == 8) for i in infos)
    except Exception:  # zipfile raises any exception for a damaged file
        return ()


def _write_zip(document: Document) -> bytes:
    file = io.BytesIO()
    with (
        warnings.catch_warnings(action="ignore"),  # names that are there twice
        mock.patch("zipfile.ZIP64_LIMIT", -1 if document.wide else zipfile.ZIP64_LIMIT),
        zipfile.ZipFile(file, "w") as archive,
    ):
        for entry in document.entries:
            info = zipfile.ZipInfo("x")
            info.filename = entry.name.decode("utf-8", "replace")  # ZipInfo would cut it at a zero byte
            info.compress_type = zipfile.ZIP_DEFLATED if entry.packed else zipfile.ZIP_STORED
            free = -(file.tell() + 34 + len(info.filename.encode())) % 64
            info.extra = struct.pack("<2sH", b"FB", free) + b"Z" * free if document.aligned else b""
            archive.writestr(info, entry.data, compresslevel=1)
    data = bytearray(file.getvalue())
    for signature, offset, new, which in document.wrong_fields:
        places = [found.start() + offset for found in re.finditer(re.escape(signature), data)]
        for place in places if which is None else places[which : which + 1]:
            data[place : place + len(new)] = new
    return bytes(data)


def _opcodes(document: Document, rng: random.Random, pool: Pool) -> None:
    """Change one to six opcodes of a pickle, or its bytes, or the storages after the pickles of a legacy file."""
    name = b"/data.pkl" if rng.random() < 0.95 else b".pkl"
    pickles = [entry for entry in document.entries if entry.name.endswith(name)]
    if rng.random() < 0.1 and not document.entries:
        document.tail = _change(document.tail, rng, pool)
    elif pickles:
        entry = rng.choice(pickles)
        whole = rng.random() < 0.2 or len(entry.data) > 1 << 20
        entry.data = _change(entry.data, rng, pool) if whole else b"".join(_edit(split_pickles(entry.data), rng, pool))
    else:
        document.opcodes = _edit(document.opcodes, rng, pool)


def _edit(ops: Sequence[bytes], rng: random.Random, pool: Pool) -> list[bytes]:
    ops = list(ops)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at, to, kind = rng.randrange(len(ops) + 1), rng.randrange(len(ops) + 1), rng.randrange(7)
        piece = ops[at : at + rng.choice((1, 1, 1, 2, 5, 20))]
        if kind == 0:
            del ops[at : at + len(piece)]
        elif kind < 4:
            ops[at : at + kind - 1] = [_opcode(rng)]
        elif kind == 4:
            ops[to:to] = piece * (_times(rng, sum(map(len, piece))) if rng.random() < 0.5 else 1)
        elif kind == 5:
            other = split_pickles(rng.choice(pool))
            there = rng.randrange(len(other) + 1)
            ops[at:at] = other[there : there + len(piece)]
        elif at < len(ops):
            ops[at] = _change(ops[at], rng, pool)
    return ops


def _opcode(rng: random.Random) -> bytes:
    """Return an opcode with an argument, one without, or a run of opcodes from the dictionary."""
    value = rng.choice(EDGES) if rng.random() < 0.7 else rng.randrange(64)
    text = str(rng.choice(_DICTIONARY["texts"])).encode("utf-8", "surrogatepass")
    length = len(text) if rng.random() < 0.9 else value
    module, name = _word(rng, "globals").split()
    real = rng.choice((0.0, -1.0, math.nan, math.inf, float(value)))
    run = _word(rng, "opcode_runs")
    return rng.choice((
        b"K" + _fit(value, 1), b"J" + _fit(value, 4), b"\x8a\x0a" + _fit(value, 10), b"I%d\n" % value,
        b"L%dL\n" % value, b"I" + b"9" * rng.choice((20, 500, 4299, 5000)) + b"\n", b"G" + struct.pack(">d", real),
        b"X" + _fit(length, 4) + text, rng.choice((b"\x8d", b"\x8e", b"\x96")) + _fit(length, 8) + text,
        rng.choice((b"\x8c", b"U", b"C")) + _fit(length, 1) + text[:255], b"S'" + text + b"'\n",
        b"V" + text.replace(b"\n", b"") + b"\n", rng.choice((b"c", b"i")) + module + b"\n" + name + b"\n",
        rng.choice((b"h", b"q")) + _fit(value, 1), rng.choice((b"j", b"r")) + _fit(value, 4),
        run, run * _times(rng, len(run)), *rng.sample(_BARE, 4),
    ))  # fmt: skip


@functools.lru_cache(maxsize=512)
def split_pickles(data: bytes, count: int = 1) -> tuple[bytes, ...]:
    """Split the first pickles of `data` into opcodes with their arguments; the rest of the data comes last."""
    file, starts = io.BytesIO(data), list[int]()
    with suppress(Exception):  # pickletools documents no exceptions
        for _ in range(count):
            starts.extend(at for _, _, at in itertools.islice(pickletools.genops(file), _MAX_OPCODES) if at is not None)
        starts.append(file.tell())
    return tuple(data[start:end] for start, end in itertools.pairwise((*starts, len(data)))) or (data,)


_NOT_JSON = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)  # after another edit
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U16": 2}


def _json(document: Document, rng: random.Random, pool: Pool) -> None:
    """Change a value of the JSON text, or of a JSON text inside it; or its bytes, the length, or the bytes after it."""
    kind, header = rng.randrange(8), document.header
    if kind == 0:
        document.header = _change(header, rng, pool)
    elif kind == 1:
        document.tail = _change(document.tail, rng, pool)
    elif kind == 2:
        document.length = rng.choice((*EDGES, len(header) + 1, len(header) - 1))
    elif kind == 3:  # a deeply nested value
        depth, at = rng.choice((3, 50, 900, 5000, 100_000)), header.find(b":") + 1
        deep = rng.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"9" * depth))
        document.header = header[:at] + deep + b"," + header[at:]
    else:
        top = {}
        with suppress(ValueError, RecursionError):
            top = json.loads(header)
        try:
            name = rng.choice(sorted(top["__metadata__"]))
            top["__metadata__"][name] = json.dumps(_edit_json(json.loads(top["__metadata__"][name]), rng))
        except _NOT_JSON:
            top = _edit_json(top, rng)
        if rng.random() < 0.4:
            _place_tensors(document, top)
        document.header = json.dumps(top, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _edit_json(top: Any, rng: random.Random) -> Any:
    root = {"": top}
    places: list[tuple[Any, Any]] = [(root, "")]
    for node, key in places:  # which grow
        value = node[key]
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        places += [(value, key) for key in keys][: 2000 - len(places)]
    (node, key), kind, values = rng.choice(places), rng.randrange(6), _DICTIONARY["json_values"]
    value, times = node[key], _times(rng, 100)
    if kind == 0:
        node[key] = rng.choice(values) if rng.random() < 0.6 else rng.choice(EDGES)
    elif kind == 1:
        del node[key]
    elif kind == 2 and isinstance(node, dict):
        node[rng.choice((f"{key}{rng.randrange(10)}", *_DICTIONARY["json_keys"]))] = node.pop(key)
    elif kind == 3 and isinstance(node, dict):
        node |= {f"{key}.{index}": value for index in range(times)}
    elif kind == 4 and isinstance(value, list):
        node[key] = value * times + rng.choice(([], [0], [1 << 48], [None]))
    elif isinstance(value, int | float) and abs(value) < 1 << 100:
        node[key] = value + rng.choice((-1, 1, 4, 1 << 32, 0.5, -value, value))
    else:
        other, there = rng.choice(places)
        node[key] = json.loads(json.dumps(other[there]))
    return root.get("", value)


def _place_tensors(document: Document, top: Any) -> None:
    """Give every tensor of a safetensors header its place and as many bytes as it needs."""
    position = 0
    with suppress(*_NOT_JSON):
        for described in (value for name, value in top.items() if name != "__metadata__"):
            # Texts or lists among the lengths are no range's length.
            size = math.prod(len(range(length)) for length in described["shape"]) * _SIZES[described["dtype"]]
            if size >= 1 << 20:
                return
            described["data_offsets"] = [position, position + size]
            position += size
        document.tail = (document.tail + bytes(position))[:position]


# The edits of each kind, repeated by how often to choose them; most of the reader's code is behind the opcodes.
EDITS: dict[str, tuple[Callable[[Document, random.Random, Pool], None], ...]] = {
    "zip": (_zip_entry, _zip_entry, _zip_headers, *[_opcodes] * 4),
    "pickles": (_opcodes,),
    "safetensors": (_json,),
    "json": (_json,),
    "bytes": (),
}
