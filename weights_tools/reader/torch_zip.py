"""Read torch's zip archives: torch.save files since 1.6, and TorchScript archives from Python and C++.

Layout: one folder with data.pkl, data/<key> for every storage, byteorder, version; TorchScript adds constants.pkl and
code/. Source: torch/serialization.py, caffe2/serialize/inline_container.h of torch 2.13.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from segnets.errors import WeightsError
from segnets.files import is_contract
from weights_tools.reader import _zip_archive
from weights_tools.reader._constructors import construct, storage_of
from weights_tools.reader._export import explain_export
from weights_tools.reader._machine import Machine
from weights_tools.reader._zip_archive import Entry
from weights_tools.reader.container import Container
from weights_tools.reader.limits import MAX_PICKLE_BYTES
from weights_tools.reader.source import Source
from weights_tools.reader.values import Foreign, Value

_CPP_CLASS = re.compile(r"__torch__\.(?:___torch_mangle_\d+\.)?Module")
_NO_CHECKSUM = "the archive holds no checksums (every CRC-32 is 0), so damage can't be noticed"


def read(source: Source, *, check: bool) -> Container:
    """Read the structure of the archive; with `check`, compare the checksum of every entry.

    Raises:
        WeightsError: If the archive is damaged, ambiguous, or of another kind.
    """
    entries = _zip_archive.read_entries(source)
    contract = next((name for name in entries if is_contract(name)), None)
    if contract is not None:
        raise WeightsError(explain_export(_zip_archive.read_small(source, entries[contract], MAX_PICKLE_BYTES)))
    root = _root(entries)
    notes = []
    if check and not _zip_archive.check_sums(source, list(entries.values())):
        notes.append(_NO_CHECKSUM)
    is_script = f"{root}constants.pkl" in entries
    data = _zip_archive.read_small(source, entries[f"{root}data.pkl"], MAX_PICKLE_BYTES)
    machine = Machine(data, 0, construct, storage_of)
    top = machine.run()
    kind = "torch zip"
    if is_script:
        kind = "C++ archive" if _is_cpp_archive(top, machine.globals) else "TorchScript archive"
        notes.append("the archive's code was neither run nor read: only the parameters were read")
    return Container(
        kind=kind,
        top=top,
        spans=_spans(entries, root),
        big_endian=_is_big_endian(source, entries.get(f"{root}byteorder")),
        globals=tuple(machine.globals),
        notes=notes,
    )


def _is_cpp_archive(top: Value, names: Iterable[str]) -> bool:
    """Return whether torch::save of a C++ program wrote these modules.

    In such an archive, every class is called `Module` and lacks the attribute `training`, which Python modules have.
    """
    classes = [name for name in names if name.startswith("__torch__.")]
    if not isinstance(top, Foreign) or not isinstance(top.state, dict) or "training" in top.state:
        return False
    return bool(classes) and all(_CPP_CLASS.fullmatch(name) for name in classes)


def _root(entries: Mapping[str, Entry]) -> str:
    """Return the folder that holds data.pkl, with a trailing slash."""
    names = list(entries)
    if not names:
        raise WeightsError("the file is an empty zip archive")
    roots = [name.removesuffix("data.pkl") for name in names if name.count("/") <= 1 and name.endswith("/data.pkl")]
    if any(name.endswith(("/archive_format", "/serialized_exported_program.json")) for name in names) or any(
        name in ("archive_format", "serialized_exported_program.json") for name in names
    ):
        raise WeightsError(
            "the file is a .pt2 archive of torch.export: a program, which loading would run. "
            "Pass the checkpoint that it was exported from."
        )
    if len(roots) == 1:
        return roots[0]
    if roots:
        raise WeightsError("the archive holds several checkpoints. Unpack it and pass one of them.")
    if all(name.endswith(".npy") for name in names):
        raise WeightsError("the file is an archive of NumPy arrays (.npz), not a checkpoint")
    inner = [name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".safetensors"))]
    if inner:
        raise WeightsError(f"the file is a zip archive that holds {inner[0][:80]!r}. Unpack it and pass that file.")
    raise WeightsError("the file is a zip archive without data.pkl, so torch.save did not write it")


def _spans(entries: Mapping[str, Entry], root: str) -> dict[str, tuple[int, int]]:
    folder = f"{root}data/"
    return {
        # torch compresses nothing, and a small entry could unpack to any size: -1 refuses it.
        name.removeprefix(folder): (entry.start, -1 if entry.compressed else entry.size)
        for name, entry in entries.items()
        if name.startswith(folder)
    }


def _is_big_endian(source: Source, entry: Entry | None) -> bool:
    if entry is None:
        return False
    order = bytes(_zip_archive.read_small(source, entry, 16)).strip()
    if order not in (b"little", b"big"):
        raise WeightsError(f"the byte order {order!r} is unknown (known: little, big)")
    return order == b"big"
