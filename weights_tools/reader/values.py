"""The values that reading a checkpoint can create, in addition to those of JSON, bytes and tuples.

All are inert. A class or function named in a file stays a name (`Global`), and an object that the file would build
stays a description (`Foreign`). Tensors are described, not read: a storage key, an offset, a shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# A pickle can nest values to any depth: traverse them with a bound, and never format or compare whole values.
Value: TypeAlias = object

# Names of torch.dtype and bytes per element. Quantized and complex dtypes are listed to be refused by name.
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


SHARD = "sharded DTensor"  # kind of an UnreadableTensor, of which a file holds one part


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A class or function that the file names. Never imported."""

    module: str
    name: str

    @property
    def dotted(self) -> str:
        """Module and name, shortened and printable."""
        # Truncate first: a file may repeat a name that is megabytes long.
        text = f"{self.module[:120]}.{self.name[:120]}"[:120]
        return text if text.isprintable() else ascii(text)[1:-1]


@dataclass(slots=True, eq=False, repr=False)
class Foreign:
    """An object that the file would build by calling `origin`. Nothing was called."""

    origin: Global | None
    args: Value = ()
    state: Value = None

    @property
    def kind(self) -> str:
        """Dotted name of what would be called."""
        return self.origin.dotted if self.origin is not None else "an unknown object"

    def __repr__(self) -> str:  # without the arguments, which may be nested to any depth
        return f"<Foreign {self.kind}>"


@dataclass(frozen=True, slots=True, eq=False)
class OpaqueKey:
    """Placeholder for a dictionary key other than a string or a small integer, such as a nested tuple."""


@dataclass(frozen=True, slots=True, eq=False)
class StorageRef:
    """A contiguous run of elements, stored in the file under `key`."""

    key: str
    dtype: str
    numel: int
    offset: int = 0  # in elements; 0 except for storage views in legacy files
    data: bytes | None = None  # little-endian elements that the pickle itself holds, as for a NumPy array


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A strided view of a storage; offset and strides count elements. `reader.tensors` checks the bounds."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True, eq=False)
class ComputedRef(TensorRef):
    """A tensor that the file holds in parts, such as a pruned weight.

    Attributes:
        rule: "mask" for the product of the parts, or "weight_norm" for magnitude and direction.
        parts: The stored tensors.
    """

    rule: str = ""
    parts: tuple[TensorRef, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class UnreadableTensor:
    """A tensor that is not a plain array: sparse, quantized, on the meta device, or a subclass."""

    kind: str


def kind_of(value: Value) -> str:
    """Describe a value in a few words, without traversing it."""
    if isinstance(value, Foreign):
        return value.kind
    if isinstance(value, Global):
        return value.dotted
    if isinstance(value, TensorRef):
        return f"tensor {value.shape}"
    if isinstance(value, UnreadableTensor):
        return f"{value.kind} tensor"
    return type(value).__name__
