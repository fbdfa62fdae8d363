"""Extract one flat state dict from a loaded checkpoint.

Training scripts nest a state dict in dictionaries, together with optimizers and arguments. Wrappers (DataParallel,
torch.compile, AveragedModel, Lightning) prefix every name. Both are removed here, and everything removed or ignored is
reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from segnets.errors import WeightsError
from segnets.weights.wrappers import clean_names
from weights_tools._text import check_name, join_names, printable
from weights_tools.extract._module_tree import walk_modules
from weights_tools.extract._parts import as_tensor, find_unnamed, join_parts, open_sequences, split_normalisation
from weights_tools.reader.container import MODULE_KINDS, Container
from weights_tools.reader.limits import MAX_TENSORS
from weights_tools.reader.values import INTEGER_DTYPES, SHARD, Foreign, TensorRef, UnreadableTensor, Value, kind_of

# Keys under which training scripts store the weights: torchvision, mmengine, VainF, Lightning, timm, common usage.
CANDIDATES = (
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "ema",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "params_ema",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_AVERAGED = "n_averaged"  # the counter of torch.optim.swa_utils.AveragedModel, without the prefix `module.`
_DEPTH = 4
TOP = "."  # the outermost dictionary in --key
_COMPARABLE = 2  # a dictionary with half as many tensors as the largest may be a network too
_MAX_PREFIXES = 8
_LARGE = 4  # a quarter of all tensors may be one of several networks


@dataclass(frozen=True)
class StateDict:
    """The tensors of one network, and how they were found.

    Attributes:
        tensors: Tensors by name, prefixes removed.
        path: Keys of the dictionaries that lead to the tensors, outermost first.
        stripped: Prefixes removed from every name, outermost first.
        dropped: Names of tensors that do not belong to the network.
        ignored: Other objects in the file, each with its type.
        notes: Remarks for the reports.
        computed: Tensors that the file holds in parts, for the reports.
        normalisation: Mean and standard deviation of the images, if the training program keeps them as buffers.
    """

    tensors: Mapping[str, TensorRef]
    path: tuple[str, ...] = ()
    stripped: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    computed: tuple[str, ...] = ()
    normalisation: tuple[TensorRef, TensorRef] | None = None


class SeveralStateDictsError(WeightsError):
    """Error for a file that holds several sets of weights.

    Attributes:
        keys: Values of `key` that choose one of them.
    """

    def __init__(self, paths: list[tuple[str, ...]]) -> None:
        names = join_names(".".join(printable(part, quote=False) for part in path) or TOP for path in paths)
        super().__init__(f"the checkpoint holds several sets of weights: {names}. Choose one with --key.")
        self.keys = [".".join(path) or TOP for path in paths]


def find_state_dict(container: Container, key: str | None = None) -> StateDict:
    """Find the weights in a file.

    Args:
        container: The content of the file.
        key: The dictionary that holds the weights, if there are several ("ema" or "a.b"). It may also be the prefix of
            one of several networks in a dictionary ("ema" for "ema.conv1.weight").

    Raises:
        SeveralStateDictsError: If there are several sets of weights and no key.
        WeightsError: If there are no weights, or names or tensors that no network has.
    """
    top = container.top
    if container.kind in MODULE_KINDS:
        if key is not None:
            raise WeightsError(f"the file is a {container.kind}, which has no keys to choose from. Omit --key.")
        tensors, notes = walk_modules(top)
        return strip_prefixes(_joined(StateDict(tensors, notes=notes)))
    top = _with_arrays(top)
    if not _search(top, _DEPTH, set()):
        opened = _with_arrays(open_sequences(top))
        if _search(opened, _DEPTH, set()):  # otherwise the message describes what the file holds
            top = opened
    if key is None:
        return strip_prefixes(_collect(top, _find_path(top)))
    path, prefix = _path_of(top, key)
    found = _collect(top, path)
    return strip_prefixes(_under(found, prefix) if prefix else found)


def _joined(found: StateDict) -> StateDict:
    tensors, computed = join_parts(found.tensors)
    found = replace(found, tensors=tensors, computed=computed)
    names = split_normalisation(tensors)
    if names is None or len(tensors) == len(names):
        return found
    kept = {name: tensor for name, tensor in tensors.items() if name not in names}
    pair = (tensors[names[0]], tensors[names[1]])
    return replace(found, tensors=kept, dropped=(*found.dropped, *names), normalisation=pair)


def _with_arrays(node: Value, depth: int = _DEPTH + 1, seen: set[int] | None = None) -> Value:
    """Return the dictionaries with tensors instead of NumPy arrays; the same object if there are none."""
    seen = set() if seen is None else seen
    if not isinstance(node, dict) or depth == 0 or id(node) in seen:
        return node
    seen.add(id(node))
    read = {}
    for key, value in node.items():
        made = _with_arrays(value, depth - 1, seen) if isinstance(value, dict) else as_tensor(value)
        if made is not value:
            read[key] = made
    return {**node, **read} if read else node


def _path_of(top: Value, key: str) -> tuple[tuple[str, ...], str]:
    """Split `key` into dictionary keys, which may contain dots, and a remaining prefix of tensor names."""
    if key == TOP and TOP not in (top if isinstance(top, dict) else ()):
        return (), ""
    node, path, rest = top, [], key
    while rest:
        if not isinstance(node, dict):
            break
        parts = rest.split(".")
        for count in range(len(parts), 0, -1):
            name = ".".join(parts[:count])
            if name in node:
                node, rest = node[name], ".".join(parts[count:])
                path.append(name)
                break
        else:
            break
    if rest:
        if not path and not _has_tensors(node):
            whole = _search(top, _DEPTH, set())
            path = list(whole[0]) if len(whole) == 1 else []
            node = _at(top, tuple(path))
        if isinstance(node, dict) and any(isinstance(name, str) and name.startswith(f"{rest}.") for name in node):
            return tuple(path), f"{rest}."
        raise WeightsError(f"the checkpoint has no key {printable(key)}, but {_contents(top)}")
    if not _has_tensors(node):
        raise WeightsError(f"the key {printable(key)} holds {kind_of(node)[:80]} instead of named tensors")
    return tuple(path), ""


def _at(top: Value, path: tuple[str, ...]) -> Value:
    node = top
    for name in path:
        node = node[name] if isinstance(node, dict) else None
    return node


def _under(found: StateDict, prefix: str) -> StateDict:
    """Keep the tensors whose names begin with `prefix`, and drop the others."""
    kept = {name.removeprefix(prefix): ref for name, ref in found.tensors.items() if name.startswith(prefix)}
    others = tuple(name for name in found.tensors if not name.startswith(prefix))
    return replace(found, tensors=kept, stripped=(*found.stripped, prefix), dropped=(*found.dropped, *others))


def _find_path(top: Value) -> tuple[str, ...]:
    found = _search(top, _DEPTH, set())
    if len(found) == 1:
        return found[0]
    if not found:
        raise WeightsError(_explain_none(top))
    raise SeveralStateDictsError(found)


def _search(node: Value, depth: int, seen: set[int]) -> list[tuple[str, ...]]:
    """Return the paths to the dictionaries that may hold the weights. A dictionary under two keys counts once."""
    if not isinstance(node, dict) or depth == 0 or id(node) in seen:
        return []
    seen.add(id(node))
    children = {
        name: [(name, *path) for path in _search(node[name], depth - 1, seen)]
        for name in dict.fromkeys([*CANDIDATES, *[k for k in node if isinstance(k, str)][:100]])
        if isinstance(node.get(name), dict)
    }
    known = [path for name in CANDIDATES for path in children.get(name, ())]
    every = [path for paths in children.values() for path in paths]
    own: list[tuple[str, ...]] = [()] if _has_tensors(node) else []
    # Under unusual keys, only a dictionary as large as a network counts.
    found = known or own or every
    largest = max((_count(node, path) for path in found), default=0)
    return [path for path in (*own, *every) if path in found or _count(node, path) * _COMPARABLE >= largest]


def _count(node: Value, path: tuple[str, ...]) -> int:
    """Count the tensors in the dictionary at the end of a path."""
    end = _at(node, path)
    return sum(isinstance(value, TensorRef) for value in end.values()) if isinstance(end, dict) else 0


def _has_tensors(node: Value) -> bool:
    return isinstance(node, dict) and any(isinstance(v, TensorRef | UnreadableTensor) for v in node.values())


def _explain_none(top: Value) -> str:
    if isinstance(top, Foreign) or (isinstance(top, dict) and any(_is_module(v) for v in top.values())):
        module = top if isinstance(top, Foreign) else next(v for v in top.values() if _is_module(v))
        if _is_module(module):
            return (
                f"the checkpoint holds a whole pickled model ({kind_of(module)}), which only its own code can load. If "
                "you have that code, save model.state_dict() instead."
            )
        return f"the checkpoint holds an object of {kind_of(top)}, not weights. Save model.state_dict() instead."
    if _is_optimizer(top):
        return "the checkpoint holds only the state of an optimizer, no weights of a network. Pass the model's file."
    optimizers = [key for key, value in top.items() if _is_optimizer(value)] if isinstance(top, dict) else []
    if optimizers:
        return (
            f"the checkpoint holds the state of an optimizer (under {printable(optimizers[0])}) and no weights of a "
            "network. Pass the model's file."
        )
    unnamed = find_unnamed(top)
    if unnamed is not None:
        where, count = unnamed
        return (
            f"the checkpoint holds tensors without names ({count} in a list{where and f' under {printable(where)}'}), "
            "as in model.parameters() and torch_ema, so they can't be told apart. Copy them into the model "
            "(torch_ema: ema.copy_to(model.parameters())) and save model.state_dict()."
        )
    if isinstance(top, dict) and top:
        return f"the checkpoint holds no tensors named like the parameters of a network, but {_contents(top)}"
    what = (
        "an empty dictionary"
        if isinstance(top, dict)
        else "nothing (None)"
        if top is None
        else f"a bare {kind_of(top)[:80]}"
    )
    return (
        f"the checkpoint holds no tensors named like the parameters of a network, but {what}. "
        "Save model.state_dict() instead."
    )


def _is_optimizer(value: Value) -> bool:
    """Return whether this is a torch.optim state, or the state of one DeepSpeed ZeRO process."""
    return isinstance(value, dict) and ({"param_groups", "state"} <= value.keys() or "zero_stage" in value)


def _is_module(value: Value) -> bool:
    return isinstance(value, Foreign) and isinstance(value.state, dict) and "_parameters" in value.state


def _contents(node: Value) -> str:
    if not isinstance(node, dict):
        return kind_of(node)[:80]
    return "the keys " + join_names(f"{printable(k, quote=False)} ({kind_of(v)[:80]})" for k, v in node.items())


def _collect(top: Value, path: tuple[str, ...]) -> StateDict:
    """Collect the tensors at the end of `path`, and record the other objects on the way."""
    node, ignored = top, []
    for name in path:
        if not isinstance(node, dict):
            raise WeightsError(f"the checkpoint has no key {printable(name)}")
        ignored += [f"{printable(k, quote=False)} ({kind_of(v)[:80]})" for k, v in node.items() if k != name]
        node = node[name]
    if isinstance(node, dict) and len(node) > MAX_TENSORS:
        raise WeightsError(
            f"the checkpoint holds {len(node):,} entries in one dictionary, more tensors than any network has"
        )
    tensors: dict[str, TensorRef] = {}
    items: Iterable[tuple[Value, Value]] = node.items() if isinstance(node, dict) else ()
    for key, value in items:
        if isinstance(key, str) and key.endswith("_packed_params"):
            raise WeightsError(
                f"the layer {printable(key)} is quantized (torch.ao.quantization), so its weights are packed integers. "
                "Save the state dict of the float network."
            )
        if isinstance(value, UnreadableTensor):
            advice = (
                "Gather it in the program that saves it: tensor.full_tensor(), or "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True."
                if value.kind.startswith(SHARD)
                else "Save plain tensors."
            )
            raise WeightsError(f"the tensor {printable(key)} is a {value.kind} tensor, not a plain one. {advice}")
        if isinstance(value, TensorRef):
            tensors[check_name(key)] = value
        else:
            ignored.append(f"{printable(key, quote=False)} ({kind_of(value)[:80]})")
    if not tensors:
        raise WeightsError(_explain_none(node))
    return _joined(StateDict(tensors, path, ignored=tuple(ignored)))


def strip_prefixes(found: StateDict) -> StateDict:
    """Repeatedly remove known prefixes shared by all names, except AveragedModel's counter, which may lack them."""
    tensors, stripped, dropped = dict(found.tensors), list(found.stripped), list(found.dropped)
    for _ in range(_MAX_PREFIXES):
        counter = tensors.get(_AVERAGED)
        names = [name for name in tensors if name != _AVERAGED or counter is None or counter.numel != 1]
        prefix = next((p for p in PREFIXES if names and all(n.startswith(p) for n in names)), None)
        if prefix is None:
            break
        if len(names) < len(tensors):
            dropped.append("".join(stripped) + _AVERAGED)
        tensors = {name.removeprefix(prefix): tensors[name] for name in names}
        stripped.append(prefix)
    result = replace(found, tensors=tensors, stripped=tuple(stripped), dropped=tuple(dropped))
    cleaned = clean_names(tensors)
    inside = sum(old != new for old, new in cleaned.items())
    if not inside:
        return result
    note = f"wrapper parts were removed from {inside} names"
    renamed = {cleaned[name]: tensor for name, tensor in tensors.items()}
    return strip_prefixes(replace(result, tensors=renamed, notes=(*found.notes, note)))


def inner_networks(found: StateDict) -> list[StateDict]:
    """Return the groups of tensors with a common first name that are large enough to be a network.

    A Lightning module may store the network under any attribute name, next to the states of losses and metrics.
    """
    sizes = Counter(name.partition(".")[0] for name in found.tensors if "." in name)
    large = [first for first, size in sizes.items() if size * _LARGE >= len(found.tensors)]
    return [strip_prefixes(_under(found, f"{first}.")) for first in large]


def looks_trained(name: str, ref: TensorRef) -> bool:
    """Return whether a tensor is a network weight rather than a counter, confusion matrix or class weight."""
    matrix = len(ref.shape) >= 2 and (ref.dtype not in INTEGER_DTYPES or name.endswith("weight"))
    return matrix or name.endswith("running_mean")
