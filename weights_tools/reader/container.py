"""What every kind of file is turned into: a tree of inert values, and where the bytes of its tensors lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from weights_tools.reader.values import Value

# Modules whose functions run commands, code or network traffic. No checkpoint needs them, an attack does. The list
# only chooses the words of a refusal: nothing that a file names is ever imported, on this list or not.
_HOSTILE_MODULES = frozenset(
    {"os", "posix", "nt", "subprocess", "runpy", "pty", "socket", "shutil", "ctypes", "importlib", "webbrowser", "code"}
    | {"_posixsubprocess", "sys", "pip", "timeit", "pdb", "bdb", "marshal", "pydoc", "cProfile", "profile", "smtplib"}
)
_HOSTILE_BUILTINS = frozenset({"eval", "exec", "compile", "open", "__import__", "breakpoint", "execfile", "input"})

# Trees of modules in place of dictionaries.
MODULE_KINDS = ("TorchScript archive", "C++ archive")


@dataclass
class Container:
    """The content of a file, or of the files that an index lists.

    kind: "torch zip", "torch legacy", "safetensors", "sharded torch", "sharded safetensors", "TorchScript archive" (of
    Python) or "C++ archive" (of torch::save).
    top: the outermost value.
    spans: for each storage key the first byte in the file and the number of bytes.
    unaligned: tensors lie at any byte, each behind 8 bytes that are of no more use.
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
        """Return the named globals that only an attack would name."""
        return [name for name in self.globals if _is_hostile(name)]


def _is_hostile(dotted: str) -> bool:
    module, _, name = dotted.rpartition(".")
    root = module.split(".")[0]
    return root in _HOSTILE_MODULES or (root in ("builtins", "__builtin__") and name in _HOSTILE_BUILTINS)
