"""Read checkpoints in several files, listed by an index.

The index is a JSON file in the same folder. Its `weight_map` has a file name for each tensor, as transformers writes it
for `model-00001-of-00002.safetensors` or `pytorch_model-00001-of-00002.bin`. Index and files must agree exactly.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segnets.errors import WeightsError
from weights_tools._text import join_names
from weights_tools.reader._single_file import read_file
from weights_tools.reader.container import Container
from weights_tools.reader.identify import EXPLAIN_DISTRIBUTED
from weights_tools.reader.limits import MAX_INDEX_BYTES, MAX_SHARDS, MAX_TENSORS
from weights_tools.reader.source import Source, require_memory
from weights_tools.reader.strict_json import parse_object
from weights_tools.reader.values import TensorRef, UnreadableTensor, Value, kind_of

_KINDS = {"safetensors": "sharded safetensors", "torch zip": "sharded torch", "torch legacy": "sharded torch"}
_ALIGNMENT = 64
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.(?:safetensors|bin|pth|pt)$")

_DISTRIBUTED = re.compile(r"__\d+_\d+\.distcp|\.metadata")


class Shards:
    """The files that an index lists, presented as one file without the index.

    Each file begins at a multiple of 64, so that its tensors keep their alignment.
    """

    def __init__(self, index: Source, weight_map: Mapping[str, str], files: Mapping[str, Source]) -> None:
        self.path = index.path
        self.paths = (index.path, *(file.path for file in files.values()))
        self.weight_map = weight_map
        self.files = files
        self.starts: list[int] = []
        position = 0
        for file in files.values():
            self.starts.append(position)
            position += file.size + -file.size % _ALIGNMENT
        self.size = index.size + sum(file.size for file in files.values())
        self._index = index
        self._sequence = list(files.values())

    @property
    def loaded(self) -> bool:
        """True if every file is in memory."""
        return all(file.loaded for file in self._sequence)

    def view(self, start: int, count: int) -> memoryview:
        """Return `count` bytes from `start`, within one file; raise WeightsError if the file is too short."""
        number = bisect.bisect_right(self.starts, start) - 1
        return self._sequence[number].view(start - self.starts[number], count)

    def sha256(self) -> str:
        """Return the sha256 of the lines that `sha256sum INDEX FILE...` prints in their folder, sorted by file name."""
        lines = [f"{file.sha256()}  {name}\n" for name, file in sorted(self.files.items())]
        first = f"{self._index.sha256()}  {self.path.name}\n"
        return hashlib.sha256("".join([first, *lines]).encode("utf-8", "surrogateescape")).hexdigest()


@contextlib.contextmanager
def open_shards(index: Source) -> Iterator[Shards]:
    """Open the files that an index lists; raise WeightsError if any is missing or outside the index's folder."""
    weight_map = _weight_map(index)
    names = sorted(set(weight_map.values()))
    if len(names) > MAX_SHARDS:
        raise WeightsError(f"the index lists {len(names):,} files (at most {MAX_SHARDS} are accepted)")
    for name in names:
        _check_name(name)
    folder = index.path.parent
    missing = [name for name in names if not os.path.lexists(folder / name)]
    if missing:
        what = f"{len(missing)} of the {len(names)} files listed in the index are missing"
        raise WeightsError(f"{what}: {join_names(missing)}. Put them into the folder of the index.")
    with contextlib.ExitStack() as stack:
        files = {}
        for name in names:
            with _naming(name):
                files[name] = stack.enter_context(Source(_place(index.path, name)))
        yield Shards(index, weight_map, files)


def _weight_map(index: Source) -> dict[str, str]:
    if index.size > MAX_INDEX_BYTES:
        raise WeightsError(f"the index has {index.size:,} bytes (at most {MAX_INDEX_BYTES:,} are accepted)")
    index.load()
    weight_map = parse_object(bytes(index.view(0, index.size)), "index").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise WeightsError("the index has no 'weight_map' from tensor names to file names")
    if not weight_map:
        raise WeightsError("the index lists no tensors")
    if len(weight_map) > MAX_TENSORS:
        raise WeightsError(f"the index lists {len(weight_map):,} tensors, more than any network has")
    return weight_map


def _check_name(name: str) -> None:
    plain = name.isprintable() and len(name) <= 255 and not set(name) & set("/\\:") and not name.startswith(".")
    if not name or not plain:
        raise WeightsError(
            f"the index lists the file {name[:80]!r}, which is not a plain name. The files must be in the folder of "
            "the index."
        )


def _place(index: Path, name: str) -> Path:
    """Return the real path of a file. A link may lead only to the real folder of the index, as in hub caches."""
    path = index.parent / name
    if not path.is_symlink():
        return path
    real = Path(os.path.realpath(path))
    if real.parent not in (Path(os.path.realpath(index.parent)), Path(os.path.realpath(index)).parent):
        raise WeightsError(
            "the file is a link to a file outside the index's folder. Put the file itself into the folder."
        )
    return real


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"file {name!r}: {error}") from None


def read_shards(shards: Shards, *, data: bool) -> Container:
    """Read every file and merge the contents; see `reader.read_container`."""
    if data:
        require_memory(shards.size)
    parts: dict[str, Container] = {}
    for name, file in shards.files.items():
        with _naming(name):
            parts[name] = read_file(file, data=data)
            if parts[name].kind not in _KINDS:
                raise WeightsError(
                    f"the file is a {parts[name].kind}, which can't be part of a checkpoint in several files"
                )
    first = next(iter(parts.values()))
    if any((part.kind, part.big_endian) != (first.kind, first.big_endian) for part in parts.values()):
        kinds = ", ".join(sorted({part.kind for part in parts.values()}))
        raise WeightsError(f"the listed files differ in kind or byte order ({kinds}). Save all of them the same way.")
    _check_agreement(shards.weight_map, parts)
    top: dict[Value, Value] = {}
    spans: dict[str, tuple[int, int]] = {}
    for number, (start, part) in enumerate(zip(shards.starts, parts.values(), strict=True)):
        assert isinstance(part.top, dict)
        top |= {name: _moved(value, number) for name, value in part.top.items()}
        spans |= {_key(number, key): (start + begin, size) for key, (begin, size) in part.spans.items()}
    notes = [f"the tensors are in {len(parts)} other files: {join_names(list(parts))}"]
    notes += dict.fromkeys(note for part in parts.values() for note in part.notes)
    if data:
        notes.append(
            "the sha256 covers the lines that `sha256sum` prints for the index and these files, sorted by name"
        )
    return Container(
        kind=_KINDS[first.kind],
        top={name: top[name] for name in shards.weight_map},
        spans=spans,
        big_endian=first.big_endian,
        globals=tuple(dict.fromkeys(name for part in parts.values() for name in part.globals)),
        metadata=_common([part.metadata for part in parts.values()]),
        notes=notes,
        unaligned=first.unaligned,
    )


def _check_agreement(weight_map: Mapping[str, str], parts: Mapping[str, Container]) -> None:
    """Raise WeightsError unless each file holds exactly the tensors that the index lists for it."""
    found: dict[Value, str] = {}
    for file, part in parts.items():
        if not isinstance(part.top, dict):
            raise WeightsError(f"the file {file!r} holds {kind_of(part.top)[:80]} instead of named tensors")
        for name, value in part.top.items():
            shown = repr(name[:80]) if isinstance(name, str) else "under a key that is not a string"
            if name in found:
                raise WeightsError(f"the tensor {shown} is in two files, {found[name]!r} and {file!r}")
            found[name] = file
            if not isinstance(value, TensorRef | UnreadableTensor):
                raise WeightsError(f"the file {file!r} holds {shown} ({kind_of(value)[:80]}), which is not a tensor")
    for name, file in found.items():
        if not isinstance(name, str) or name not in weight_map:
            shown = repr(name[:80]) if isinstance(name, str) else "a tensor without a name"
            raise WeightsError(f"the file {file!r} holds {shown}, which the index does not list")
    lacking = [name for name, file in weight_map.items() if found.get(name) != file]
    if lacking:
        name, more = lacking[0], f" ({len(lacking) - 1} more are missing)" if len(lacking) > 1 else ""
        raise WeightsError(
            f"the file {weight_map[name]!r} lacks the tensor {name[:80]!r}, which the index lists there{more}. "
            "Download all files of one version."
        )


def _moved(value: Value, number: int) -> Value:
    if not isinstance(value, TensorRef):
        return value
    return replace(value, storage=replace(value.storage, key=_key(number, value.storage.key)))


def _key(number: int, key: str) -> str:
    return f"{number}:{key}"


def _common(every: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the metadata on which all files agree."""
    return {key: text for key, text in every[0].items() if all(other.get(key) == text for other in every)}


def part_of_several(path: Path) -> str | None:
    """Return a hint if a file's name marks it as one of several, else None."""
    if _DISTRIBUTED.fullmatch(path.name):
        return f"the file's name marks it as part of a distributed checkpoint. {EXPLAIN_DISTRIBUTED}"
    found = _PART.search(path.name)
    if found is None or int(found[2]) < 2:
        return None
    part = f"the file's name marks it as part {int(found[1])} of {int(found[2])}. Pass the index of all parts"
    with contextlib.suppress(OSError):
        indices = sorted(p.name for p in path.parent.glob("*.index.json") if p.name.isprintable())
        if indices:
            return f"{part}, {indices[0]!r}"
    return f"{part}, *.index.json"
