"""Read the zip archives that torch writes, strictly.

Python's zipfile accepts ambiguous archives: leading or trailing bytes, two concatenated archives, duplicate names, gaps
that another reader would take for entries. All of these are refused, and so are encrypted entries and compressed
tensors. The CRC-32 of every entry is checked, which torch itself does not do.
Source: APPNOTE.TXT 6.3.10, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from segnets.errors import WeightsError
from weights_tools.reader.limits import MAX_ENTRIES
from weights_tools.reader.source import Source

_LOCAL, _CENTRAL, _END, _END64, _LOCATOR64 = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_HAS_DESCRIPTOR = 1 << 3
_UTF8 = 1 << 11
_MOVED = "the archive's directory is not where the end record puts it: bytes were added or are missing"
_OVERLAP = "the entries of the archive overlap or leave gaps, so the archive could be read in two ways"
_DESCRIPTOR_SIZES = (12, 16, 20, 24)


@dataclass(frozen=True)
class Entry:
    """A file in the archive, stored as `packed` bytes from `start`."""

    name: str
    crc: int
    start: int
    packed: int
    size: int
    compressed: bool


@dataclass(frozen=True)
class _Listed:
    """An entry of the central directory, before its local header is checked."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


def read_entries(source: Source) -> dict[str, Entry]:
    """Return the entries of the archive by name.

    Raises:
        WeightsError: If the archive is damaged, truncated, ambiguous or encrypted.
    """
    start, length, count = _find_directory(source)
    listed = _read_directory(source.view(start, length), count)
    entries: dict[str, Entry] = {}
    position = 0
    for item in sorted(listed, key=lambda entry: entry.header):
        if item.header != position and item.header not in _after_descriptor(position):
            if position == 0:
                raise WeightsError(
                    "the archive has bytes before its first entry. Only a plain zip archive is accepted."
                )
            raise WeightsError(_OVERLAP)
        entry = _open_entry(source, item)
        if entry.name in entries:
            raise WeightsError(f"the archive has two entries {entry.name[:80]!r}, so it could be read in two ways")
        entries[entry.name] = entry
        position = entry.start + entry.packed
        if item.flags & _HAS_DESCRIPTOR:
            position = -position  # the sign marks that a descriptor of unknown size follows
    if start != position and start not in _after_descriptor(position):
        raise WeightsError(_OVERLAP)
    return entries


def _after_descriptor(position: int) -> tuple[int, ...]:
    return tuple(-position + size for size in _DESCRIPTOR_SIZES) if position < 0 else ()


def _find_directory(source: Source) -> tuple[int, int, int]:
    """Return start, size in bytes, and number of entries of the central directory."""
    tail_start = max(0, source.size - (22 + 0xFFFF))
    tail = bytes(source.view(tail_start, source.size - tail_start))
    found = tail.rfind(_END)
    if found < 0 or len(tail) - found < 22:
        raise WeightsError(
            f"the archive is truncated: {source.size:,} bytes and no end record. Download or copy it again."
        )
    disk, first_disk, here, count, length, start, comment = struct.unpack("<4x4H2LH", tail[found : found + 22])
    if found + 22 + comment != len(tail):
        raise WeightsError("the file has bytes after the end of the archive. Download or copy it again.")
    if disk or first_disk or here != count:
        raise WeightsError("the file is one part of a split zip archive. Join the parts first.")
    end = tail_start + found
    has_locator = tail[max(0, found - 20) : found][:4] == _LOCATOR64
    if has_locator or count == 0xFFFF or 0xFFFFFFFF in (length, start):
        small = (start, length, count)
        start, length, count, end = _find_directory64(source, end)
        if any(s not in (0xFFFF, 0xFFFFFFFF, large) for s, large in zip(small, (start, length, count), strict=True)):
            raise WeightsError("the archive's two end records differ, so it could be read in two ways")
    if start + length != end:
        raise WeightsError(_MOVED)
    if count > MAX_ENTRIES or length < count * 46:
        raise WeightsError("the archive's directory is damaged: it can't hold the stated number of entries")
    return start, length, count


def _find_directory64(source: Source, end: int) -> tuple[int, int, int, int]:
    locator = bytes(source.view(end - 20, 20))
    if locator[:4] != _LOCATOR64:
        raise WeightsError("the archive is damaged: the 64-bit end record is missing")
    (record,) = struct.unpack("<8xQ4x", locator)
    data = bytes(source.view(record, 56))
    size, here, count, length, start = struct.unpack("<4xQ4x8x4Q", data)
    if data[:4] != _END64 or record + 12 + size != end - 20 or here != count:
        raise WeightsError(_MOVED)
    return start, length, count, record


def _read_directory(data: memoryview, count: int) -> list[_Listed]:
    listed = []
    position = 0
    for _ in range(count):
        fixed = bytes(data[position : position + 46])
        if len(fixed) < 46 or fixed[:4] != _CENTRAL:
            raise WeightsError("the archive's directory is damaged")
        flags, method, crc, packed, size, n, m, k, header = struct.unpack("<8x2H4x3L3H8xL", fixed)
        raw = bytes(data[position + 46 : position + 46 + n])
        extra = bytes(data[position + 46 + n : position + 46 + n + m])
        size, packed, header = _large_values(extra, size, packed, header)
        listed.append(_Listed(_decode(raw, flags), raw, flags, method, crc, packed, size, header))
        position += 46 + n + m + k
    if position != len(data):
        raise WeightsError("the archive's directory is damaged")
    return listed


def _large_values(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Return size, packed size and header offset, taking values beyond 32 bits from the zip64 field."""
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        if kind == 1:
            body = extra[4 : 4 + length]
            numbers = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
            size = next(numbers, size) if size == 0xFFFFFFFF else size
            packed = next(numbers, packed) if packed == 0xFFFFFFFF else packed
            header = next(numbers, header) if header == 0xFFFFFFFF else header
            break
        extra = extra[4 + length :]
    return size, packed, header


def _decode(raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise WeightsError("the name of an entry of the archive is damaged") from None
    if "\0" in name or "\\" in name or name.startswith("/") or ".." in name.split("/"):
        raise WeightsError(f"the entry {name[:80]!r} points out of the archive")
    return name


def _open_entry(source: Source, item: _Listed) -> Entry:
    local = bytes(source.view(item.header, 30))
    flags, method, n, m = struct.unpack("<6x2H16x2H", local)
    raw = bytes(source.view(item.header + 30, n))
    if local[:4] != _LOCAL or raw != item.raw_name or method != item.method:
        raise WeightsError(f"the entry {item.name[:80]!r} is damaged: the entry and the archive's directory differ")
    if (flags | item.flags) & _ENCRYPTED:
        raise WeightsError("the archive is encrypted with a password. Decrypt it first.")
    if item.method not in (_STORED, _DEFLATED):
        raise WeightsError(f"the entry {item.name[:80]!r} has an unknown compression method")
    if item.method == _STORED and item.packed != item.size:
        raise WeightsError(f"the entry {item.name[:80]!r} is damaged: its two stated sizes differ")
    start = item.header + 30 + n + m
    source.view(start, min(item.packed, 1))
    if start + item.packed > source.size:
        raise WeightsError(f"the entry {item.name[:80]!r} reaches beyond the end of the file: the archive is truncated")
    return Entry(item.name, item.crc, start, item.packed, item.size, item.method == _DEFLATED)


def read_small(source: Source, entry: Entry, limit: int) -> memoryview:
    """Return the unpacked bytes of an entry; raise WeightsError if they exceed `limit` or are damaged."""
    if entry.size > limit:
        raise WeightsError(
            f"the entry {entry.name[:80]!r} has {entry.size:,} bytes, more than any checkpoint needs there"
        )
    data = source.view(entry.start, entry.packed)
    if not entry.compressed:
        return data
    unpacker = zlib.decompressobj(-15)
    try:
        unpacked = unpacker.decompress(data, entry.size + 1)
    except zlib.error:
        raise WeightsError(f"the entry {entry.name[:80]!r} is damaged: it can't be decompressed") from None
    if len(unpacked) != entry.size or not unpacker.eof:
        raise WeightsError(f"the entry {entry.name[:80]!r} does not have its stated size")
    if entry.crc and zlib.crc32(unpacked) != entry.crc:
        raise WeightsError(f"the entry {entry.name[:80]!r} is damaged: the checksum differs. Download the file again.")
    return memoryview(unpacked)


def check_sums(source: Source, entries: list[Entry]) -> bool:
    """Compare the CRC-32 of uncompressed entries.

    Returns:
        False if the archive has no checksums (every field is 0).

    Raises:
        WeightsError: If an entry's checksum differs; the message gives the first.
    """
    filled = [entry for entry in entries if entry.size and not entry.compressed]
    if not any(entry.crc for entry in filled):
        return False
    sums = source.checksums([(entry.start, entry.packed) for entry in filled])
    for entry, found in zip(filled, sums, strict=True):
        if found != entry.crc:
            raise WeightsError(
                f"the entry {entry.name[:80]!r} is damaged: checksum {found:08x}, expected {entry.crc:08x}. "
                "Download or copy the file again."
            )
    return True
