"""Remove the wrappers that training puts around a network, and their parts of its tensor names."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import nn

from segnets.card import ModelConfig

# Full name of a class that computes the same as the module inside -> attribute with that module. Not imported, because
# most of them take long to import or belong to other projects.
_TRANSPARENT = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "_fsdp_wrapped_module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": "_checkpoint_wrapped_module",
    "lightning.fabric.wrappers._FabricModule": "_original_module",
    "lightning_fabric.wrappers._FabricModule": "_original_module",
    "deepspeed.runtime.engine.DeepSpeedEngine": "module",
    "timm.utils.model_ema.ModelEma": "ema",
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
}
_SHARDED = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"
_PLAIN_FORWARD = "_original_forward"
# Parts of tensor names that only wrappers have, at any depth.
WRAPPER_WORDS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
# Used by wrappers, but also an ordinary name; no network here has a part with this name.
_PARALLEL = "module"
_T = TypeVar("_T")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside wrappers that compute the same: compiled, parallel or averaged models."""
    while (inside := _wrapped(model)) is not None:
        model = inside
    return model


def without_inner_wrappers(model: nn.Module) -> nn.Module:
    """Return the network without any wrappers inside it, such as a compiled backbone.

    The network itself is not changed. The result shares its tensors; modules around a wrapper are shallow copies.
    """
    model = unwrap(model)
    children = {name: child and without_inner_wrappers(child) for name, child in model._modules.items()}
    # accelerate's mixed precision sets a `forward` on the module, and keeps the plain one.
    original = getattr(vars(model).get(_PLAIN_FORWARD), "__func__", None)
    cast = "forward" in vars(model) and original is type(model).forward
    if not cast and all(child is model._modules[name] for name, child in children.items()):
        return model
    clone = copy.copy(model)
    clone.__dict__["_modules"] = children
    if cast:
        del clone.__dict__["forward"], clone.__dict__[_PLAIN_FORWARD]
    return clone


def is_sharded(model: nn.Module) -> bool:
    """Return whether a process holds only a part of the tensors (FSDP)."""
    if any(_SHARDED in _names_of(type(module)) for module in model.modules()):
        return True
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def hint_for(model: nn.Module) -> str:
    """Return a sentence that lists the attributes of a module that hold a network, or an empty string."""
    found: dict[str, ModelConfig] = {}
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        if name and isinstance(config, ModelConfig) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = config
    if not found:
        return ""
    held = " and ".join(f"its attribute {name!r} is a {config.name}" for name, config in list(found.items())[:3])
    return f"{held[0].upper()}{held[1:]}: pass {' or '.join(f'model.{name}' for name in list(found)[:3])}."


def _wrapped(model: nn.Module) -> nn.Module | None:
    attribute = next((_TRANSPARENT[name] for name in _names_of(type(model)) if name in _TRANSPARENT), None)
    inside = getattr(model, attribute, None) if attribute is not None else None
    return inside if isinstance(inside, nn.Module) else None


def _names_of(kind: type) -> list[str]:
    return [f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__]


def clean_names(names: Iterable[str]) -> dict[str, str]:
    """Remove wrapper parts from tensor names.

    Args:
        names: Names of tensors.

    Returns:
        New name by old name. Names are kept if two of them would become the same. The part `module` is not removed at
        the start, because it is the prefix of all names of a DataParallel.
    """
    cleaned = {name: _without_words(name) for name in names}
    if len(set(cleaned.values())) < len(cleaned):
        return {name: name for name in cleaned}
    return cleaned


def _without_words(name: str) -> str:
    parts = name.split(".")
    if WRAPPER_WORDS.isdisjoint(parts) and _PARALLEL not in parts[1:]:
        return name
    return ".".join(
        part for at, part in enumerate(parts) if part not in WRAPPER_WORDS and not (at and part == _PARALLEL)
    )


@dataclass(frozen=True)
class Unwrapped:
    """Tensors of a network under its own names.

    Attributes:
        kept: Old name by new name.
        stripped: Prefixes and wrapper parts that were removed, for reports.
        dropped: Names of tensors outside the network.
        prefixes: Prefixes under which the network was found, "" for none. With more than one, the names are unchanged.
    """

    kept: Mapping[str, str]
    stripped: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


def find_network(names: Collection[str], own: Collection[str]) -> Unwrapped:
    """Find the tensors of a known network among the names of a wrapped one.

    Args:
        names: Names of the given tensors, such as "module.backbone.conv1.weight".
        own: Names of the network's tensors.

    Returns:
        The tensors of the network. All of `names`, unchanged, if the network is not found under a prefix.
    """
    as_given = Unwrapped({name: name for name in names})
    wanted = set(own)
    if 2 * len(wanted.intersection(names)) >= len(wanted):  # the other names differ by more than a prefix
        return replace(as_given, prefixes=("",))
    cleaned = clean_names(names)
    words = sorted({part for name in names if cleaned[name] != name for part in name.split(".")} & _words())
    by_prefix: dict[str, dict[str, str]] = {}
    for old, new in cleaned.items():
        parts = new.split(".")
        for count in range(len(parts)):
            rest = ".".join(parts[count:])
            if rest in wanted:
                by_prefix.setdefault("".join(f"{part}." for part in parts[:count]), {})[rest] = old
    prefixes = tuple(prefix for prefix, found in by_prefix.items() if 2 * len(found) >= len(wanted))
    if not prefixes:
        return as_given
    if len(prefixes) > 1:
        return Unwrapped(as_given.kept, prefixes=prefixes)
    prefix = prefixes[0]
    kept = {new.removeprefix(prefix): old for old, new in cleaned.items() if new.startswith(prefix)}
    dropped = tuple(old for old, new in cleaned.items() if not new.startswith(prefix))
    stripped = (*((prefix,) if prefix else ()), *(f"{word}." for word in words if f"{word}." not in prefix))
    return Unwrapped(kept, stripped, dropped, prefixes)


def _words() -> frozenset[str]:
    return WRAPPER_WORDS | {_PARALLEL}
