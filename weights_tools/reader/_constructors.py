"""Build the results of the few constructors that checkpoints need. Every other call is kept as a description.

Sources: torch/_utils.py, torch/_tensor.py, torch/storage.py, torch/jit/_pickle.py of torch 2.13.
"""

from __future__ import annotations

from segnets.errors import WeightsError
from weights_tools.reader._machine import Machine
from weights_tools.reader.limits import MAX_DIMENSIONS, MAX_SIZE
from weights_tools.reader.values import (
    ITEM_SIZES,
    SHARD,
    Foreign,
    Global,
    StorageRef,
    TensorRef,
    UnreadableTensor,
    Value,
)

STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "UntypedStorage": "uint8",
}
STORAGE_MODULES = frozenset({"torch", "torch.cuda", "torch.storage"})

# Tensors that are not plain arrays. They matter only among the weights.
UNREADABLE = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_wrapper_subclass": "wrapped",
    "torch._utils._rebuild_device_tensor_from_numpy": "device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "device",
    "torch.jit._pickle.build_tensor_from_id": "TorchScript constant",
}
_DTENSORS = frozenset({"torch.distributed.tensor.DTensor", "torch.distributed._tensor.api.DTensor"})
PLAIN_TENSOR_TYPES = frozenset(
    {"torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
)


def construct(machine: Machine, target: Global, args: tuple[Value, ...]) -> Value:
    """Build the value of a known constructor, or describe the call."""
    dotted = target.dotted
    if dotted == "collections.OrderedDict":
        return _ordered_dict(machine, args)
    if dotted in UNREADABLE:
        return UnreadableTensor(UNREADABLE[dotted])
    if target.module == "torch._utils" and target.name.startswith("_rebuild_parameter") and args:
        return args[0]
    if dotted in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        return _tensor(args, None)
    if dotted == "torch._utils._rebuild_tensor_v3" and len(args) >= 7:
        return _tensor(args, args[6])
    if dotted == "torch._tensor._rebuild_from_type_v2" and len(args) >= 3:
        return _from_type(machine, args)
    if dotted == "torch.Size" and len(args) == 1 and isinstance(args[0], tuple):
        return args[0]
    if target.module == "torch.jit._pickle" and args:  # restore_type_tag, build_intlist and similar
        return args[0]
    return Foreign(target, args)


def _ordered_dict(machine: Machine, args: tuple[Value, ...]) -> dict[Value, Value]:
    made: dict[Value, Value] = {}
    if not args:
        return made
    pairs = args[0]
    if not isinstance(pairs, list):
        raise WeightsError("the pickle is damaged: an OrderedDict is not made from a list")
    machine.spend(len(pairs))
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise WeightsError("the pickle is damaged: an OrderedDict is not made from pairs")
        machine.set_item(made, pair[0], pair[1])
    return made


def _tensor(args: tuple[Value, ...], dtype: Value) -> TensorRef | UnreadableTensor:
    if len(args) < 4:
        raise WeightsError("the pickle is damaged: a tensor lacks its size")
    storage, offset, shape, stride = args[:4]
    if isinstance(storage, Foreign):
        return UnreadableTensor(storage.kind)
    if not isinstance(storage, StorageRef) or type(offset) is not int or not 0 <= offset <= MAX_SIZE:
        raise WeightsError("the pickle is damaged: a tensor lacks its storage")
    name = storage.dtype
    if dtype is not None:
        name = dtype.name if isinstance(dtype, Global) and dtype.module == "torch" else "?"
        if name not in ITEM_SIZES:
            return UnreadableTensor(dtype.dotted[:40] if isinstance(dtype, Global) else "?")
    return TensorRef(storage, name, offset, _sizes(shape), _sizes(stride))


def _sizes(value: Value) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMENSIONS:
        raise WeightsError("the pickle is damaged: the size of a tensor is not a short list of numbers")
    sizes = []
    for size in value:
        if type(size) is not int or not 0 <= size <= MAX_SIZE:
            raise WeightsError("the pickle is damaged: the size of a tensor is not a natural number")
        sizes.append(size)
    return tuple(sizes)


def _from_type(machine: Machine, args: tuple[Value, ...]) -> Value:
    function, kind, inner = args[:3]
    known = isinstance(kind, Global) and kind.dotted in PLAIN_TENSOR_TYPES
    if known and isinstance(function, Global) and isinstance(inner, tuple) and function.module == "torch._utils":
        return construct(machine, function, inner)
    if isinstance(kind, Global) and kind.dotted in _DTENSORS:
        return _local_tensor(inner, args[3] if len(args) > 3 else None)
    return UnreadableTensor(kind.dotted if isinstance(kind, Global) else "unknown")


def _local_tensor(inner: Value, state: Value) -> TensorRef | UnreadableTensor:
    """Return what the file holds of a distributed tensor, if that is all of it."""
    attributes: dict[Value, Value] = {}
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            attributes.update(part)
    local = attributes.get("_local_tensor")
    # Arguments of torch._utils._rebuild_wrapper_subclass: class, dtype, size, ...
    size = inner[2] if isinstance(inner, tuple) and len(inner) > 2 else None
    if isinstance(local, TensorRef) and isinstance(size, tuple) and size == local.shape:
        return local
    held = f", {local.shape} of {size}" if isinstance(local, TensorRef) and isinstance(size, tuple) else ""
    return UnreadableTensor(f"{SHARD}{held[:80]}")


def storage_of(identity: Value) -> StorageRef:
    """Parse the persistent id of a storage: ("storage", type, key, location, numel[, view]). Ignores the device."""
    if not isinstance(identity, (tuple, list)) or len(identity) < 5 or identity[0] != "storage":
        raise WeightsError("the pickle refers to an external object that is not a tensor storage")
    kind, key, numel = identity[1], identity[2], identity[4]
    dtype = STORAGE_DTYPES.get(kind.name) if isinstance(kind, Global) and kind.module in STORAGE_MODULES else None
    if dtype is None:
        raise WeightsError("the pickle holds a storage with an unknown dtype")
    if not isinstance(key, str) or type(numel) is not int or not 0 <= numel <= MAX_SIZE:
        raise WeightsError("the pickle is damaged: a storage lacks its name or its size")
    offset = 0
    if len(identity) > 5 and identity[5] is not None:  # legacy files: (key of the view, offset, numel of the view)
        view = identity[5]
        if not isinstance(view, (tuple, list)) or len(view) != 3 or not all(type(n) is int for n in view[1:]):
            raise WeightsError("the pickle is damaged: a view of a storage lacks its size")
        offset = view[1]
        if not 0 <= offset <= offset + view[2] <= numel:
            raise WeightsError("the pickle is damaged: a view reaches beyond its storage")
    return StorageRef(key, dtype, numel, offset)
