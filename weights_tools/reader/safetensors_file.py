"""Read safetensors files, more strictly than most readers do.

A file is 8 bytes of header size, a JSON header that begins with `{`, and the tensors, without holes, overlaps or
trailing bytes. Names are unique, and `__metadata__` maps strings to strings. Source: README of
https://github.com/huggingface/safetensors
"""

from __future__ import annotations

from collections.abc import Mapping

from segnets.errors import WeightsError
from weights_tools.reader.container import Container
from weights_tools.reader.limits import MAX_DIMENSIONS, MAX_SAFETENSORS_HEADER, MAX_SIZE, MAX_TENSORS
from weights_tools.reader.source import Source
from weights_tools.reader.strict_json import parse_object
from weights_tools.reader.values import ITEM_SIZES, StorageRef, TensorRef

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


def read(source: Source) -> Container:
    """Read the header; raise WeightsError that gives the violated rule of the format."""
    length = int.from_bytes(source.view(0, 8), "little")
    if length > MAX_SAFETENSORS_HEADER:
        raise WeightsError(
            f"the safetensors header claims {length:,} bytes (at most {MAX_SAFETENSORS_HEADER:,} are accepted)"
        )
    if 8 + length > source.size:
        raise WeightsError(
            f"the file is truncated inside the safetensors header ({source.size:,} bytes). Download it again."
        )
    header = _parse(bytes(source.view(8, length)))
    if len(header) > MAX_TENSORS + 1:
        raise WeightsError(f"the safetensors header holds {len(header):,} tensors, more than any network has")
    metadata = _metadata(header.pop("__metadata__", {}))
    top: dict[str, TensorRef] = {}
    spans: dict[str, tuple[int, int]] = {}
    for name, described in header.items():
        tensor, begin, end = _tensor(name, described)
        top[name] = tensor
        spans[name] = (8 + length + begin, end - begin)
    _check_layout(spans, 8 + length, source.size)
    notes = ["the format has no checksums"]
    return Container("safetensors", top, spans, metadata=metadata, notes=notes)


def _parse(text: bytes) -> dict[str, object]:
    if not text.startswith(b"{"):
        raise WeightsError("the safetensors header does not begin with '{', which the format requires")
    return parse_object(text, "safetensors header")


def _metadata(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise WeightsError("the safetensors metadata holds a value that is not text")
    return value


def _tensor(name: str, described: object) -> tuple[TensorRef, int, int]:
    what = f"the tensor {name[:80]!r}"
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(f"{what} is not described by dtype, shape and data_offsets")
    code, sizes, offsets = described["dtype"], described["shape"], described["data_offsets"]
    dtype = _DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise WeightsError(f"{what} has the unknown dtype {str(code)[:20]!r} (known: {', '.join(_DTYPES)})")
    shape = _naturals(sizes)
    span = _naturals(offsets)
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise WeightsError(f"{what} has a shape that is not a short list of natural numbers")
    if span is None or len(span) != 2 or span[0] > span[1]:
        raise WeightsError(f"{what} has data_offsets that are not two ascending natural numbers")
    count = 1
    stride: list[int] = []
    for size in reversed(shape):
        stride.insert(0, count)
        count *= size
    if count * ITEM_SIZES[dtype] != span[1] - span[0]:
        raise WeightsError(
            f"{what} has {span[1] - span[0]:,} bytes, but its shape and dtype need {count * ITEM_SIZES[dtype]:,}"
        )
    storage = StorageRef(name, dtype, count)
    return TensorRef(storage, dtype, 0, tuple(shape), tuple(stride)), span[0], span[1]


def _naturals(value: object) -> list[int] | None:
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n <= MAX_SIZE for n in value):
        return None
    return value


def _check_layout(spans: Mapping[str, tuple[int, int]], position: int, size: int) -> None:
    for name, (start, count) in sorted(spans.items(), key=lambda item: item[1]):
        if start != position:
            kind = "overlaps the one before it" if start < position else "leaves a hole before it"
            raise WeightsError(f"the tensor {name[:80]!r} {kind}: the file could carry hidden content")
        position += count
    if position > size:
        raise WeightsError(
            f"the file is truncated ({size:,} bytes, and the tensors need {position:,}). Download it again."
        )
    if position < size:
        raise WeightsError(f"the file has {size - position:,} bytes after the last tensor. Download or copy it again.")
