"""Extract one flat state dict from the module tree of a TorchScript archive or of a C++ torch::save archive.

Both hold a tree of modules whose attributes are parameters, buffers, modules and other values. Source:
torch/csrc/jit/serialization and torch/csrc/api/src/serialize of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator

from segnets.errors import WeightsError
from weights_tools._text import MAX_NAME, check_name
from weights_tools.reader.limits import MAX_ATTRIBUTES, MAX_DEPTH, MAX_MODULES, MAX_TENSORS
from weights_tools.reader.values import Foreign, TensorRef, UnreadableTensor, Value


def walk_modules(top: Value) -> tuple[dict[str, TensorRef], tuple[str, ...]]:
    """Collect the tensors of a module and its submodules.

    Returns:
        The tensors by the dotted names of their attributes, and notes for the report.

    Raises:
        WeightsError: If there are none, or they are the state of an optimizer or an unnamed list.
    """
    attributes = top.state if isinstance(top, Foreign) and isinstance(top.state, dict) else {}
    if "param_groups" in attributes or any(isinstance(n, str) and n.endswith("/size") for n in attributes):
        raise WeightsError(
            "the archive holds only the state of an optimizer, no weights of a network. Save the module itself."
        )
    if attributes and all(_is_numbered(name, value) for name, value in attributes.items()):
        raise WeightsError(
            f"the archive holds tensors without names ({len(attributes)} in a list, perhaps a "
            "std::vector<torch::Tensor>), which can't be told apart. Save the module itself."
        )
    tensors: dict[str, TensorRef] = {}
    unreadable = 0
    for prefix, name, value in _attributes(top):
        if isinstance(value, UnreadableTensor):
            unreadable += 1
        elif len(tensors) == MAX_TENSORS:
            raise WeightsError(f"the archive holds more than {MAX_TENSORS:,} tensors, which no network has")
        else:
            tensors[check_name(f"{prefix}{name}")] = value
    if not tensors:
        raise WeightsError(
            "the archive has no named parameters: torch.jit.freeze turned them into constants. "
            "Save the model before freezing it."
        )
    notes = (f"{unreadable} attributes that are not plain tensors were left out",) if unreadable else ()
    return tensors, notes


def _is_numbered(name: Value, value: Value) -> bool:
    return isinstance(name, str) and name.isdecimal() and isinstance(value, TensorRef | UnreadableTensor)


def _attributes(top: Value) -> Iterator[tuple[str, Value, TensorRef | UnreadableTensor]]:
    """Yield prefix, name and tensor for a module and its submodules. Cycles end at the limits."""
    waiting: list[tuple[str, Value, int]] = [("", top, 0)]
    modules = attributes = 0
    while waiting:
        prefix, node, depth = waiting.pop()
        if not isinstance(node, Foreign) or not isinstance(node.state, dict):
            continue
        children = [(k, v) for k, v in node.state.items() if isinstance(v, Foreign) and isinstance(k, str)]
        modules += len(children)  # counted before they are added, to bound the list
        attributes += len(node.state)
        if modules > MAX_MODULES or attributes > MAX_ATTRIBUTES or depth > MAX_DEPTH:
            raise WeightsError(
                f"the archive has too many modules, or they are nested too deeply (at most {MAX_MODULES:,} with "
                f"{MAX_ATTRIBUTES:,} attributes, {MAX_DEPTH} deep): it is damaged or an attack. Get the model from "
                "another source."
            )
        for name, value in node.state.items():
            if isinstance(value, TensorRef | UnreadableTensor):
                yield prefix, name, value
        # Cut, so that a long name is not copied for each module; `check_name` refuses it for a tensor.
        waiting += [
            (f"{prefix}{name[:MAX_NAME]}."[: MAX_NAME + 1], child, depth + 1) for name, child in reversed(children)
        ]
