"""Read torch.save files from before 1.6, or written with `_use_new_zipfile_serialization=False`.

A file is five pickles (magic number, protocol, machine, the object, the storage keys), then for each key the number of
elements as int64 and the elements. Source: `_legacy_save` in torch/serialization.py of torch 2.13.
"""

from __future__ import annotations

from segnets.errors import WeightsError
from weights_tools.reader._constructors import construct, storage_of
from weights_tools.reader._machine import Machine
from weights_tools.reader.container import Container
from weights_tools.reader.limits import MAX_ENTRIES
from weights_tools.reader.source import Source
from weights_tools.reader.values import ITEM_SIZES, StorageRef, Value

_PROTOCOL = 1001
_FIRST_WINDOW = 4 << 20


def read(source: Source) -> Container:
    """Read the structure of the file; raise WeightsError if the file is damaged or truncated."""
    reader = _Reader(source)
    reader.next()  # the magic number, already checked
    if reader.next() != _PROTOCOL:
        raise WeightsError("the legacy file of torch.save has an unknown protocol version")
    machine = reader.next()
    top = reader.next()
    keys = reader.next()
    if not isinstance(keys, list) or len(keys) > MAX_ENTRIES:
        raise WeightsError("the list of storages is damaged")
    big = isinstance(machine, dict) and machine.get("little_endian") is False
    spans = _spans(source, reader, keys, "big" if big else "little")
    notes = ["the format has no checksums"]
    return Container("torch legacy", top, spans, big, tuple(reader.globals), notes=notes, unaligned=True)


class _Reader:
    """Reader of consecutive pickles, which collects the storages that they name."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = 0
        self.storages: dict[str, StorageRef] = {}
        self.globals: dict[str, None] = {}

    def next(self) -> Value:
        source = self.source
        whole = source.size - self.position
        if source.buffer is None and whole > _FIRST_WINDOW:
            # If the file is not in memory, try a window first: the pickles are small compared with the tensors.
            try:
                return self._run(source.view(self.position, _FIRST_WINDOW))
            except WeightsError:
                self.storages.clear()
        return self._run(source.view(self.position, whole))

    def _run(self, data: memoryview) -> Value:
        machine = Machine(data, 0, construct, self._persistent)
        value = machine.run()
        self.position += machine.position
        self.globals.update(machine.globals)
        return value

    def _persistent(self, identity: Value) -> Value:
        if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
            return identity[1]  # the class of a pickled module; its source code is ignored
        storage = storage_of(identity)
        known = self.storages.setdefault(storage.key, storage)
        if (known.dtype, known.numel) != (storage.dtype, storage.numel):
            raise WeightsError("a storage is mentioned with two different sizes")
        return storage


def _spans(source: Source, reader: _Reader, keys: list[Value], order: str) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    position = reader.position
    for key in keys:
        storage = reader.storages.get(key) if isinstance(key, str) else None
        if storage is None or storage.key in spans:
            raise WeightsError("the list of storages is damaged")
        count = int.from_bytes(source.view(position, 8), "big" if order == "big" else "little")
        if count != storage.numel:
            raise WeightsError("the size of a storage is damaged")
        size = count * ITEM_SIZES[storage.dtype]
        if position + 8 + size > source.size:
            raise WeightsError(
                f"the file is truncated ({source.size:,} bytes, fewer than the tensors need). Download it again."
            )
        spans[storage.key] = (position + 8, size)
        position += 8 + size
    if position != source.size:
        raise WeightsError("the file has bytes after the last tensor. Download or copy it again.")
    return spans
