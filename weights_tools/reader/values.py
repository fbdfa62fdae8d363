"""The only kinds of value that reading a checkpoint can make, beside the plain ones of JSON, bytes and tuples.

None of them does anything. A class or function named in a file stays a name (`Global`), and what the file wanted to
build with it stays a description (`Foreign`). Tensors are described, not read: a storage key, an offset, a shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# A pickle can nest its values as deep as it likes: walk them with a bound, and never format or compare them whole.
Value: TypeAlias = object

# The names of torch.dtype, and the bytes of one element. Quantised and complex ones are here to be refused by name.
ITEM_SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
}
FLOAT_DTYPES = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})
INTEGER_DTYPES = frozenset({"int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"})


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A class or function that the file names. It is never imported."""

    module: str
    name: str

    @property
    def dotted(self) -> str:
        """Short, and printable: it is shown to people."""
        # Cut first: a file may name one text of megabytes again and again.
        text = f"{self.module[:120]}.{self.name[:120]}"[:120]
        return text if text.isprintable() else ascii(text)[1:-1]


@dataclass(slots=True, eq=False, repr=False)
class Foreign:
    """An object that the file wanted to build by calling `origin`. Nothing was called."""

    origin: Global | None
    args: Value = ()
    state: Value = None

    @property
    def kind(self) -> str:
        return self.origin.dotted if self.origin is not None else "an unknown object"

    def __repr__(self) -> str:  # never the arguments: they may be nested without end
        return f"<Foreign {self.kind}>"


@dataclass(frozen=True, slots=True, eq=False)
class OpaqueKey:
    """Stands for a dictionary key that is no plain string or small number, such as a nested tuple."""


@dataclass(frozen=True, slots=True, eq=False)
class StorageRef:
    """A run of elements that lies elsewhere in the file under `key`."""

    key: str
    dtype: str
    numel: int
    offset: int = 0  # in elements; not 0 only for the storage views of legacy files


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A strided view of a storage; offset and strides count elements. Not checked yet, see `reader.tensors`."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True, eq=False)
class UnreadableTensor:
    """A tensor of a kind that holds no plain weights: sparse, quantised, on the meta device, a subclass."""

    kind: str


def kind_of(value: Value) -> str:
    """Name what a value is, in a few words and without looking inside it."""
    if isinstance(value, Foreign):
        return value.kind
    if isinstance(value, Global):
        return value.dotted
    if isinstance(value, TensorRef):
        return f"tensor {value.shape}"
    if isinstance(value, UnreadableTensor):
        return f"{value.kind} tensor"
    return type(value).__name__
