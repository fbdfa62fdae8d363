"""Changes to zip archives: their entries, with correct checksums, and the fields of their headers, with lies."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from fuzz.document import Document, Entry
from fuzz.edit_bytes import EDGES, change, times

_NAMES = (
    b"archive/data.pkl", b"data.pkl", b"archive/constants.pkl", b"archive/byteorder", b"archive/data/0",
    b"archive/data/", b"archive/../data.pkl", b"/data.pkl", b"archive\\data.pkl", b"archive/data/\0", b"", b"/",

    b"other/data.pkl", b"archive/archive_format", b"\xff\xfe", b"archive/data/" + b"9" * 300, b"w.npy",
    b"archive/code/x.py",
    "archive/data/\u202e\ud7ff".encode(), b"archive/version", b"archive/data/\n0",
)  # fmt: skip
_FIELDS = ("flags", "method", "crc", "packed", "size", "name", "extra")
_SMALL = (b"", b"little", b"big", b"middle", b"3\n", b"\x80\x02N.", b"\x80\x02}.", b"\x80\x02)R.")


def _pick(document: Document, rng: random.Random) -> Entry:
    return rng.choice(document.entries)


def content(document: Document, rng: random.Random, pool: Sequence[bytes]) -> None:
    """Other bytes in an entry, with the checksum of these bytes."""
    entry = _pick(document, rng)
    entry.data = rng.choice(_SMALL) if rng.random() < 0.2 else change(entry.data, rng, pool)


def rename(document: Document, rng: random.Random, pool: Sequence[bytes]) -> None:
    """Another name for an entry."""
    entry = _pick(document, rng)
    entry.name = rng.choice(_NAMES) if rng.random() < 0.6 else change(entry.name, rng, pool)[:60_000]


def drop(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """An entry is missing."""
    document.entries.remove(_pick(document, rng))
    if not document.entries:
        document.entries.append(Entry(b"archive/data.pkl", b"\x80\x02}."))


def duplicate(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """An entry again, under the same name or others."""
    entry = _pick(document, rng)
    same = rng.random() < 0.3
    count = 1 if same else times(rng, len(entry.data) + 200)
    for index in range(count):
        again = entry.copy()
        again.name += b"" if same else str(index).encode()
        document.entries.insert(rng.randrange(len(document.entries) + 1), again)


def exchange(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """Two entries swap their contents."""
    one, other = _pick(document, rng), _pick(document, rng)
    one.data, other.data = other.data, one.data


def pack(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """Deflate an entry, or all."""
    chosen = document.entries if rng.random() < 0.3 else [_pick(document, rng)]
    for entry in chosen:
        entry.packed = not entry.packed


def bomb(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """Much in little space."""
    entry = _pick(document, rng)
    entry.packed = True
    size = rng.choice((1 << 10, 1 << 14, 1 << 16)) if rng.random() < 0.95 else rng.choice((1 << 20, 24 << 20))
    entry.data += rng.choice((b"\0", b"0", b"(", b"}", b"]", b"N", b"I1\n", b"K\1")) * size


def lie(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """A field of a header that says something else; in both headers of an entry, or in one."""
    entry = _pick(document, rng)
    name = rng.choice(_FIELDS)
    value = rng.choice(EDGES) if rng.random() < 0.7 else rng.randrange(64)
    where = rng.random()
    if where < 0.7:
        entry.central[name] = value
    if where > 0.3:
        entry.local[name] = value
    if where > 0.95:
        entry.central["header"] = value


def lie_at_end(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """A field of the end record."""
    document.end[rng.choice(("disk", "here", "count", "length", "start", "comment"))] = rng.choice(EDGES)


def no_checksums(document: Document, _rng: random.Random, _pool: Sequence[bytes]) -> None:
    """As torch.save writes with compute_crc32=False."""
    for entry in document.entries:
        entry.local["crc"] = entry.central["crc"] = 0


def shift(document: Document, rng: random.Random, _pool: Sequence[bytes]) -> None:
    """Storages where no other reader puts them, or 64-bit records."""
    if rng.random() < 0.5:
        document.aligned = not document.aligned
    else:
        document.wide = not document.wide


EDITS: dict[str, Callable[[Document, random.Random, Sequence[bytes]], None]] = {
    f"zip {f.__name__}": f
    for f in (content, rename, drop, duplicate, exchange, pack, bomb, lie, lie_at_end, no_checksums, shift)
}
