"""Store files in the metadata of an ONNX model, and read them without ONNX.

An ONNX file is a protobuf message: a sequence of numbered fields. Ours ends in entries of the field `metadata_props`,
each a name and a text: the contract as `segnets.json`; `golden.safetensors`, `preprocess.onnx` and `mask.onnx` in
base64; and last `segnets.sha256`, the checksum of every byte before it. Every ONNX library returns these entries as the
metadata of the model.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping

from segnets.deploy.contract import CONTRACT_FILE
from segnets.errors import ExportError

CHECKSUM = "segnets.sha256"
JOINED = "segnets.joined"  # marks graphs written by `segnets.deploy._join_onnx`, which are not exports
MAX_BYTES = (1 << 31) - 1  # limit of protobuf
_AGAIN = "Copy or export it again"
# Field numbers, from onnx.proto.
_GRAPH, _METADATA, _INITIALIZER, _EXTERNAL_DATA, _DATA_LOCATION = 7, 14, 5, 13, 14
_WIDTHS = {1: 8, 5: 4}
_VARINT, _BYTES = 0, 2


def pack(graph: bytes, texts: Mapping[str, str], files: Mapping[str, bytes]) -> bytes:
    """Append our entries to a serialized model.

    Args:
        graph: Serialized model without metadata.
        texts: Entries to store as they are, by name.
        files: Files to store in base64, by name.

    Raises:
        ExportError: If the result exceeds 2 GB.
    """
    entries = {**texts, **{name: base64.b64encode(contents).decode() for name, contents in files.items()}}
    data = graph + b"".join(_entry(name, text) for name, text in entries.items())
    data += _entry(CHECKSUM, hashlib.sha256(data).hexdigest())
    check_size(len(data))
    return data


def check_size(size: int) -> None:
    """Check that one ONNX file can hold this many bytes.

    Raises:
        ExportError: If there are too many bytes.
    """
    if size > MAX_BYTES:
        raise ExportError(
            f"the network takes {size / 1e9:.1f} GB, but an ONNX file holds at most 2 GB; more would need a second "
            "file of external data, which segnets does not write. Export with format='torchscript'"
        )


def looks_like_onnx(data: bytes) -> bool:
    """Return whether a file starts like ONNX (ir_version, a small number), and not like safetensors."""
    return data[:1] == b"\x08" and data[1:2] < b"\x80" and data[2:9] != bytes(6) + b"{"


def unpack(data: bytes, where: str) -> dict[str, str]:
    """Read the entries that `pack` wrote, and compare the checksum.

    Args:
        data: Contents of the file.
        where: Name of the file, for messages.

    Returns:
        Entries by name, without the checksum.

    Raises:
        ExportError: If the file is damaged, not an export by segnets, or has weights in other files.
    """
    if len(data) > MAX_BYTES:
        raise ExportError(f"{where}: takes {len(data) / 1e9:.1f} GB, but an ONNX file holds at most 2 GB")
    entries: dict[str, str] = {}
    checked = None
    try:
        for number, start, value in _fields(data):
            if number == _GRAPH:
                _check_everything_is_inside(value, where)
            elif number == _METADATA:
                name, text = _read_entry(value)
                if name in entries:
                    raise ExportError(f"{where}: is ambiguous: it has two entries {name!r}. Export the model again")
                entries[name] = text
                checked = start
    except ValueError as error:
        raise ExportError(f"{where}: is truncated or damaged ({error}). {_AGAIN}") from None
    if CONTRACT_FILE not in entries and CHECKSUM not in entries:
        raise ExportError(
            f"{where}: is ONNX, but has no {CONTRACT_FILE}: it was not made by segnets.export, or its end is missing"
        )
    if JOINED in entries:
        raise ExportError(
            f"{where}: is one graph from an image to its mask (segnets join), which runtimes load themselves. Pass the "
            "export that it was made from"
        )
    if CHECKSUM not in entries or list(entries)[-1] != CHECKSUM:
        raise ExportError(f"{where}: is truncated or damaged (it does not end in its checksum). {_AGAIN}")
    if hashlib.sha256(memoryview(data)[:checked]).hexdigest() != entries.pop(CHECKSUM):
        raise ExportError(f"{where}: is damaged: its checksum is wrong. {_AGAIN}")
    return entries


class OnnxContainer:
    """An ONNX file that segnets exported.

    Args:
        data: Contents of the file.
        where: Name of the file, for messages.

    Raises:
        ExportError: If the file is damaged, or segnets did not export it.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where, self.kind = data, where, "onnx"
        self._entries = unpack(data, where)
        if CONTRACT_FILE not in self._entries:
            raise ExportError(f"{where}: is ONNX, but has no {CONTRACT_FILE}: it was not made by segnets.export")

    def read(self, name: str) -> bytes:
        """Return the contents of one of segnets' files in the metadata.

        Raises:
            ExportError: If there is no such file, or it is not base64.
        """
        if name not in self._entries:
            raise ExportError(f"{self.where}: has no {name}. Export the model again")
        text = self._entries[name]
        if name == CONTRACT_FILE:
            return text.encode()
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ExportError(f"{self.where}: {name} is damaged ({error}). Export the model again") from None


def _fields(data: bytes | memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield number, start and contents of each field of a message.

    Raises:
        ValueError: If the bytes are not a message.
    """
    view, at = memoryview(data), 0
    while at < len(view):
        start = at
        key, at = _varint(view, at)
        kind, length = key & 7, 0
        if kind == _VARINT:
            end = _varint(view, at)[1]
        elif kind == _BYTES:
            length, at = _varint(view, at)
            end = at + length
        elif kind in _WIDTHS:
            end = at + _WIDTHS[kind]
        else:
            raise ValueError(f"a field of unknown kind {kind} at byte {start}")
        if end > len(view):
            raise ValueError(f"the field at byte {start} extends past the end")
        yield key >> 3, start, view[at:end]
        at = end


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(view):
            raise ValueError("the data end within a number")
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"a number without end at byte {at}")


def _read_entry(entry: memoryview) -> tuple[str, str]:
    parts = {number: bytes(value).decode() for number, _, value in _fields(entry)}
    return parts.get(1, ""), parts.get(2, "")


def _entry(name: str, text: str) -> bytes:
    inner = _text_field(1, name.encode()) + _text_field(2, text.encode())
    return _text_field(_METADATA, inner)


def _text_field(number: int, contents: bytes) -> bytes:
    return _number(number << 3 | _BYTES) + _number(len(contents)) + contents


def _number(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def _check_everything_is_inside(graph: memoryview, where: str) -> None:
    """Refuse weights in other files, because runtimes would read them from any path given in the file."""
    for number, _, tensor in _fields(graph):
        if number == _INITIALIZER and any(
            field in (_EXTERNAL_DATA, _DATA_LOCATION) and bytes(value) != b"\0" for field, _, value in _fields(tensor)
        ):
            raise ExportError(f"{where}: has weights in another file (external data), which segnets never writes")
