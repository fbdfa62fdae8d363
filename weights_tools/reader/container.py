"""The content of a checkpoint of any format: a tree of inert values, and where the bytes of its tensors are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weights_tools.reader.values import Value

# Modules whose functions run commands or code, or open connections. No checkpoint needs them. The list only chooses the
# wording of a refusal: nothing that a file names is ever imported, whether listed or not.
_HOSTILE_MODULES = frozenset(
    {"os", "posix", "nt", "subprocess", "runpy", "pty", "socket", "shutil", "ctypes", "importlib", "webbrowser", "code"}
    | {"_posixsubprocess", "sys", "pip", "timeit", "pdb", "bdb", "marshal", "pydoc", "cProfile", "profile", "smtplib"}
)
_HOSTILE_BUILTINS = frozenset({"eval", "exec", "compile", "open", "__import__", "breakpoint", "execfile", "input"})

# Formats that hold trees of modules instead of dictionaries.
MODULE_KINDS = ("TorchScript archive", "C++ archive")


@dataclass
class Container:
    """The content of a file, or of the files that an index lists.

    Attributes:
        kind: "torch zip", "torch legacy", "safetensors", "sharded torch", "sharded safetensors", "TorchScript archive"
            (written from Python) or "C++ archive" (written by torch::save).
        top: The outermost value.
        spans: Start and size in bytes of each storage, by its key.
        big_endian: Whether the tensors are big-endian.
        globals: Dotted names of the classes and functions that the file names.
        metadata: Metadata of a safetensors file.
        notes: Remarks for the reports.
        unaligned: Whether storages may start at any byte, as in legacy files. The 8 bytes before each may be
            overwritten.
    """

    kind: str
    top: Value
    spans: Mapping[str, tuple[int, int]]
    big_endian: bool = False
    globals: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unaligned: bool = False

    def hostile(self) -> list[str]:
        """Return the globals that only an attack would name."""
        return [name for name in self.globals if _is_hostile(name)]


def _is_hostile(dotted: str) -> bool:
    module, _, name = dotted.rpartition(".")
    root = module.split(".")[0]
    return root in _HOSTILE_MODULES or (root in ("builtins", "__builtin__") and name in _HOSTILE_BUILTINS)
