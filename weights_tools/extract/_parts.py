"""Assemble tensors that training stores in parts, and read NumPy arrays as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from segnets.errors import WeightsError
from weights_tools._text import join_names, printable
from weights_tools.reader.limits import MAX_DIMENSIONS, MAX_SIZE
from weights_tools.reader.values import ITEM_SIZES, ComputedRef, Foreign, StorageRef, TensorRef, Value

_MOST_ITEMS = 100  # longest list that is searched
_MOST_KEYS = 20
_PARAMETRIZATIONS = ".parametrizations."
_NUMPY_ARRAYS = frozenset({"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"})
_DEVIATIONS = {"mean": "std", "pixel_mean": "pixel_std", "image_mean": "image_std", "_mean": "_std"}
_MOST_CHANNELS = 4
_NUMPY_DTYPES = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u1": "uint8",
    "b1": "bool",
}


def split_normalisation(tensors: Mapping[str, TensorRef]) -> tuple[str, str] | None:
    """Return the names of the mean and standard deviation by which a training program normalises images, or None."""
    for name in tensors:
        parent, _, last = name.rpartition(".")
        other = f"{parent}.{_DEVIATIONS[last]}".lstrip(".") if last in _DEVIATIONS else ""
        if other in tensors and 0 < tensors[name].numel == tensors[other].numel <= _MOST_CHANNELS:
            return name, other
    return None


def join_parts(tensors: Mapping[str, TensorRef]) -> tuple[dict[str, TensorRef], tuple[str, ...]]:
    """Replace the parts of pruned and weight-normalised tensors with the tensors that the network uses.

    Returns:
        The tensors, and a sentence per kind for reports.

    Raises:
        WeightsError: If the parts of a tensor do not determine it.
    """
    computed: dict[str, tuple[str, TensorRef]] = {}
    used: set[str] = set()
    counts = {"mask": 0, "weight_norm": 0}
    for name in tensors:
        parts = _parts_of(name)
        if parts is None:
            continue
        rule, other, whole = parts
        if other in tensors and whole not in tensors and _fit(rule, tensors[name], tensors[other]):
            like = tensors[name] if rule == "mask" else tensors[other]
            both = (tensors[name], tensors[other])
            ref = ComputedRef(like.storage, like.dtype, like.offset, like.shape, like.stride, rule, both)
            computed[name] = (whole, ref)
            used.add(other)
            counts[rule] += 1
    joined: dict[str, TensorRef] = {}
    for name, stored in tensors.items():
        if name not in used:
            whole, made = computed.get(name, (name, stored))
            joined[whole] = made
    left = [name for name in joined if _PARAMETRIZATIONS in name or name.endswith(("_orig", "weight_u"))]
    if left:
        raise WeightsError(
            f"{len(left)} tensors are stored in parts by a parametrization that only its own code can compute, such as "
            f"a spectral norm: {join_names(map(printable, left), 3)}. Call "
            "torch.nn.utils.parametrize.remove_parametrizations or remove_spectral_norm, and save again."
        )
    texts = {
        "mask": "pruned tensors are the products of X_orig and X_mask",
        "weight_norm": "tensors with weight norm are computed from magnitude and direction",
    }
    return joined, tuple(f"{count} {texts[rule]}" for rule, count in counts.items() if count)


def _parts_of(name: str) -> tuple[str, str, str] | None:
    """Return the rule, the second part and the whole if `name` is the name of a first part."""
    if name.endswith("_orig"):
        whole = name.removesuffix("_orig")
        return "mask", f"{whole}_mask", whole
    if name.endswith("weight_g"):
        whole = name.removesuffix("_g")
        return "weight_norm", f"{whole}_v", whole
    if _PARAMETRIZATIONS in name and name.endswith(".original0"):
        before = name.removesuffix("0")
        return "weight_norm", f"{before}1", before.removesuffix(".original").replace(_PARAMETRIZATIONS, ".")
    return None


def _fit(rule: str, first: TensorRef, second: TensorRef) -> bool:
    if rule == "mask":
        return first.shape == second.shape
    if len(first.shape) != len(second.shape):
        return False
    long = [at for at, size in enumerate(first.shape) if size != 1]
    return len(long) <= 1 and all(first.shape[at] == second.shape[at] for at in long)


def as_tensor(value: Value) -> Value:
    """Return a NumPy array as a tensor, and any other value unchanged."""
    if not isinstance(value, Foreign) or value.kind not in _NUMPY_ARRAYS or not isinstance(value.state, tuple):
        return value
    if len(value.state) != 5:
        return value
    _, shape, dtype, fortran, data = value.state
    name, content = _dtype_of(dtype), _bytes_of(data)
    if name is None or content is None or not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        return value
    sizes = tuple(n for n in shape if type(n) is int and 0 <= n <= MAX_SIZE)
    if len(sizes) < len(shape):
        return value
    stride, step = [0] * len(sizes), 1
    for at in range(len(sizes)) if fortran else reversed(range(len(sizes))):
        stride[at] = step
        step *= sizes[at]
    if step * ITEM_SIZES[name] != len(content):
        return value
    return TensorRef(StorageRef(f"array {id(value)}", name, step, 0, content), name, 0, sizes, tuple(stride))


def _dtype_of(value: Value) -> str | None:
    """Return the name of a little-endian dtype that torch also has."""
    if not isinstance(value, Foreign) or value.kind != "numpy.dtype" or not isinstance(value.args, tuple):
        return None
    code = value.args[0] if value.args else None
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "|"
    return _NUMPY_DTYPES.get(code) if isinstance(code, str) and order in ("<", "|") else None


def _bytes_of(value: Value) -> bytes | None:
    """Return bytes; a pickle of protocol 2 writes them as text."""
    if isinstance(value, Foreign) and value.kind == "_codecs.encode" and isinstance(value.args, tuple):
        text, encoding = (*value.args, None, None)[:2]
        if isinstance(text, str) and encoding == "latin1":
            try:
                return text.encode("latin1")
            except UnicodeEncodeError:
                return None
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def open_sequences(value: Value, depth: int = 4, seen: dict[int, Value] | None = None) -> Value:
    """Return lists and tuples that lead to named tensors as dictionaries.

    A list of (name, tensor) becomes a dictionary of them, any other list one with the keys "0", "1", ...
    """
    seen = {} if seen is None else seen
    if depth == 0 or not isinstance(value, dict | list | tuple) or not value:
        return value
    if id(value) not in seen:  # a file may refer to one value from many places
        seen[id(value)] = value
        seen[id(value)] = _opened(value, depth - 1, seen)
    return seen[id(value)]


def _opened(value: dict[Value, Value] | list[Value] | tuple[Value, ...], depth: int, seen: dict[int, Value]) -> Value:
    if isinstance(value, dict):
        return {key: open_sequences(each, depth, seen) for key, each in value.items()}
    pairs: dict[Value, Value] = {}
    for each in value:
        if isinstance(each, list | tuple) and len(each) == 2 and type(each[0]) is str:
            pairs[each[0]] = each[1]
    if len(pairs) == len(value):
        return pairs
    if len(value) <= _MOST_ITEMS and any(isinstance(each, dict | list | tuple) for each in value):
        return {str(at): open_sequences(each, depth, seen) for at, each in enumerate(value)}
    return value


def find_unnamed(value: Value, depth: int = 4) -> tuple[str, int] | None:
    """Return the path and length of a list of unnamed tensors, such as `[*model.parameters()]`, or None."""
    if isinstance(value, list | tuple) and value and all(isinstance(each, TensorRef) for each in value):
        return "", len(value)
    if not depth or not isinstance(value, dict):
        return None
    for key, each in islice(value.items(), _MOST_KEYS):
        found = find_unnamed(each, depth - 1)
        if found is not None:
            return f"{key}.{found[0]}".rstrip("."), found[1]
    return None
