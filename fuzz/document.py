"""A file taken apart into what a mutation may change, and put together again so that it is consistent where unchanged.

Without that, the checksums of a zip archive and the length before a safetensors header would stop nearly every change
before it reaches the code behind them.
"""

from __future__ import annotations

import functools
import io
import itertools
import pickletools
import struct
import zipfile
import zlib
from dataclasses import dataclass, field

from weights_tools.reader.identify import LEGACY_MAGIC

_ALIGNMENT = 64
_MOST_OPCODES = 6000  # that are told apart; those behind are one piece


@dataclass
class Entry:
    """A file in a zip archive. local, central: fields of its two headers that say something else than the truth."""

    name: bytes
    data: bytes
    packed: bool = False
    local: dict[str, int] = field(default_factory=dict)
    central: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Entry:
        return Entry(self.name, self.data, self.packed, dict(self.local), dict(self.central))


@dataclass
class Document:
    """One file. kind: "zip", "pickles" (one or several, then other bytes), "safetensors", "json" or
    "raw".

    entries, end: of a zip archive; end: fields of its end record that lie. pickles, tail: opcodes with their arguments,
    and what stands behind. header, tail: of a safetensors file; length: what it claims of its header, if not the truth.
    """

    kind: str
    raw: bytes = b""
    entries: list[Entry] = field(default_factory=list)
    end: dict[str, int] = field(default_factory=dict)
    pickles: list[list[bytes]] = field(default_factory=list)
    header: bytes = b""
    length: int | None = None
    tail: bytes = b""
    aligned: bool = True
    wide: bool = False  # zip64

    def to_bytes(self) -> bytes:
        if self.kind == "zip":
            return _write_zip(self)
        if self.kind == "pickles":
            return b"".join(b"".join(ops) for ops in self.pickles) + self.tail
        if self.kind == "safetensors":
            length = len(self.header) if self.length is None else self.length
            return (length & (1 << 64) - 1).to_bytes(8, "little") + self.header + self.tail
        return self.raw

    def size(self) -> int:
        """About how many bytes it is made of, as far as edits make it grow."""
        inside = sum(len(entry.data) for entry in self.entries) + sum(len(op) for ops in self.pickles for op in ops)
        return inside + len(self.raw) + len(self.header) + len(self.tail)


def take_apart(data: bytes) -> Document:
    """Never fails: what can't be taken apart is raw bytes."""
    if data.startswith(b"PK"):
        entries = _read_zip(data)
        if entries:
            return Document("zip", entries=[entry.copy() for entry in entries])
    if data[:1] == b"\x80" or data[:2] == b"(d":
        *chunks, tail = _split_pickles(data, 5 if data.startswith(LEGACY_MAGIC) else 1)
        return Document("pickles", pickles=[list(chunk) for chunk in chunks], tail=b"".join(tail))
    if data[:1] == b"{":
        return Document("json", data)
    length = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and 8 + length <= len(data):
        return Document("safetensors", header=data[8 : 8 + length], tail=data[8 + length :])
    return Document("raw", data)


@functools.lru_cache(maxsize=512)
def split_pickle(data: bytes) -> tuple[bytes, ...]:
    """The opcodes of the first pickle, each with its argument; what follows it, or is no opcode, comes last."""
    starts = []
    try:
        found = itertools.islice(pickletools.genops(data), _MOST_OPCODES)
        starts += [position for _, _, position in found if position is not None]
    except Exception:  # pickletools states no errors, and data may be anything
        pass
    starts += [len(data)]
    if len(starts) > 1 and data[starts[-2] : starts[-2] + 1] == b".":
        starts.insert(-1, starts[-2] + 1)
    return tuple(data[start:end] for start, end in itertools.pairwise(starts))


@functools.lru_cache(maxsize=256)
def _split_pickles(data: bytes, count: int) -> tuple[tuple[bytes, ...], ...]:
    found: list[tuple[bytes, ...]] = []
    for _ in range(count):
        ops = split_pickle(data)
        if b"." not in ops:
            break
        ops = ops[: ops.index(b".") + 1]
        found.append(ops)
        data = data[sum(map(len, ops)) :]
    return (*found, (data,))


@functools.lru_cache(maxsize=256)
def _read_zip(data: bytes) -> tuple[Entry, ...] | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return tuple(
                Entry(info.orig_filename.encode(), archive.read(info), info.compress_type != zipfile.ZIP_STORED)
                for info in archive.infolist()
                if info.file_size < 1 << 22
            )
    except Exception:  # zipfile raises anything at all for damaged files
        return None


_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_NARROW = 0xFFFFFFFF


def _write_zip(document: Document) -> bytes:
    body, directory = bytearray(), bytearray()
    for entry in document.entries:
        start = len(body)
        stored, facts = _facts(entry)
        body += _local(entry, facts, start if document.aligned else None) + stored
        directory += _central(entry, facts, start, wide=document.wide)
    count, at = len(document.entries), len(body)
    end = {"disk": 0, "first": 0, "here": count, "count": count, "length": len(directory), "start": at, "comment": 0}
    end |= document.end
    tail = b""
    if document.wide:
        end |= {"start": _NARROW} | document.end
        tail = struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *(_fit(end[k], 8) for k in ("here", "count", "length")), at
        )
        tail += struct.pack("<4sLQL", b"PK\6\7", 0, at + len(directory), 1)
    tail += _END.pack(b"PK\5\6", *(_fit(value, 4 if key in ("length", "start") else 2) for key, value in end.items()))
    return bytes(body + directory + tail)


def _facts(entry: Entry) -> tuple[bytes, dict[str, int]]:
    stored = entry.data
    if entry.packed:
        packer = zlib.compressobj(1, wbits=-15)
        stored = packer.compress(entry.data) + packer.flush()
    facts = {"flags": 1 << 11, "method": 8 if entry.packed else 0, "crc": zlib.crc32(entry.data)}
    return stored, facts | {"packed": len(stored), "size": len(entry.data), "name": len(entry.name), "extra": 0}


def _local(entry: Entry, facts: dict[str, int], start: int | None) -> bytes:
    padding = b""
    if start is not None:
        free = -(start + _LOCAL.size + len(entry.name) + 4) % _ALIGNMENT
        padding = struct.pack("<2sH", b"FB", free) + b"Z" * free
    f = facts | {"extra": len(padding)} | entry.local
    header = _LOCAL.pack(
        b"PK\3\4", 20, _fit(f["flags"], 2), _fit(f["method"], 2), 0, 0,
        *(_fit(f[key], 4) for key in ("crc", "packed", "size")), _fit(f["name"], 2), _fit(f["extra"], 2),
    )  # fmt: skip
    return header + entry.name + padding


def _central(entry: Entry, facts: dict[str, int], start: int, *, wide: bool) -> bytes:
    facts = facts | {"header": start, "comment": 0}
    extra = b""
    if wide:
        numbers = [facts[key] for key in ("size", "packed", "header")]
        extra = struct.pack("<2H3Q", 1, 24, *numbers)
        facts |= {"size": _NARROW, "packed": _NARROW, "header": _NARROW, "extra": len(extra)}
    f = facts | entry.central
    header = _CENTRAL.pack(
        b"PK\1\2", 20, 20, _fit(f["flags"], 2), _fit(f["method"], 2), 0, 0,
        *(_fit(f[key], 4) for key in ("crc", "packed", "size")),
        *(_fit(f[key], 2) for key in ("name", "extra", "comment")), 0, 0, 0, _fit(f["header"], 4),
    )  # fmt: skip
    return header + entry.name + extra


def _fit(value: int, width: int) -> int:
    return value & ((1 << 8 * width) - 1)
