"""Describe a network as it is now, which may differ from what its builder recorded.

Options that tensors determine are inferred from them: the number of classes, the image's channels, and whether there is
an auxiliary classifier. So a network with a replaced last convolution need not be rebuilt. Other changes are reported
as a problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from segnets.card import JSON, ModelConfig
from segnets.registry import MODELS, build_described
from segnets.weights.behaviour import find_difference
from segnets.weights.mismatch import AUXILIARY

_LONGEST = 5  # number of tensors in a message


class _Shaped(Protocol):
    @property
    def shape(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class AsIs:
    """Description of a network as it is now.

    Attributes:
        config: Config that builds the network; if there is a `problem`, the closest one.
        changed: Options that differ from those it was built with, for example "num_classes=7 (built with 21)".
        problem: Reason why no config builds the network, and what to do; empty if `config` builds it.
    """

    config: ModelConfig
    changed: tuple[str, ...] = ()
    problem: str = ""


def describe_as_is(network: nn.Module, config: ModelConfig, tensors: Mapping[str, Tensor]) -> AsIs:
    """Describe a network as it is now.

    Args:
        network: Network without wrappers around it.
        config: Config that it was built with.
        tensors: Its state dict, without wrapper parts in the names.

    Raises:
        WeightsError: If `config` can't be built.
    """
    actual, described = infer_config(config, tensors)
    needed = described.state_dict()
    other = [name for name in {**needed, **tensors} if _shape(needed, name) != _shape(tensors, name)]
    if other:
        shown = "; ".join(
            f"{name} {_shape(tensors, name) or 'missing'} instead of {_shape(needed, name) or 'nothing'}"
            for name in other[:_LONGEST]
        )
        more = f"; and {len(other) - _LONGEST} more tensors" if len(other) > _LONGEST else ""
        return AsIs(
            actual,
            problem="This model was changed since it was built, and no options of "
            f"{actual.name} describe it: {shown}{more}. {_advice(described, tensors)}",
        )
    changed = tuple(_changes(config, actual))
    if any(tensor.is_meta for tensor in tensors.values()):
        return AsIs(actual, changed)  # nothing to run
    difference = find_difference(network, actual, described, tensors)
    if not difference:
        return AsIs(actual, changed)
    return AsIs(
        actual,
        changed,
        f"This model has {difference}, so the described {actual.name} would compute something else. Build it with "
        "options that match, or register a network of your own with segnets.register_model. model.state_dict() keeps "
        "its tensors.",
    )


def last_layers(network: nn.Module) -> list[str]:
    """Return the paths of the layers that have one row per class, the classifier's before the auxiliary one's."""
    paths = []
    for part in ("classifier", "aux_classifier"):
        paths += [f"{part}.{layer}" for layer in getattr(getattr(network, part, None), "last_layers", ())]
    if paths:
        return paths
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]


def infer_config(config: ModelConfig, tensors: Mapping[str, _Shaped]) -> tuple[ModelConfig, nn.Module]:
    """Return the config with the options that the tensors show, and its network.

    Args:
        config: Config that the network was built with.
        tensors: Tensors of the network as it is now, under their names in the network.

    Returns:
        The config with new values of `num_classes`, `aux_loss` or `in_channels` where the tensors differ, and the
        network that it describes, on the meta device. It describes all tensors only if nothing else was changed.

    Raises:
        WeightsError: If `config` can't be built.
    """
    options: dict[str, JSON] = dict(config.options)
    auxiliary = any(name.startswith(AUXILIARY) for name in tensors)
    if config.name in MODELS and MODELS[config.name].head.auxiliary and auxiliary != bool(options.get("aux_loss")):
        options["aux_loss"] = auxiliary
    built = dict(options)
    network = build_described(config.name, options)
    first = next((name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)), "")
    channels = _size(tensors, f"{first}.weight", 1)
    if channels and channels != options.get("in_channels", 3):
        options["in_channels"] = channels
    layers = last_layers(network)
    classes = _size(tensors, f"{layers[0]}.weight", 0) if layers else None
    if classes:
        options["num_classes"] = classes
    elif layers and config.name not in MODELS and not any(name.startswith(f"{layers[0]}.") for name in tensors):
        options["num_classes"] = 0  # a classifier whose last layers were removed
    if options != built:
        network = build_described(config.name, options)
    return ModelConfig(config.name, options), network


def _changes(before: ModelConfig, after: ModelConfig) -> list[str]:
    defaults: dict[str, JSON] = {"in_channels": 3, "aux_loss": False}
    old = {**defaults, **before.options}
    new = {**defaults, **after.options}
    return [f"{name}={value} (built with {old.get(name)})" for name, value in new.items() if old.get(name) != value]


def _advice(network: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Return what to do about tensors that no options describe."""
    if any(".parametrizations." in name for name in tensors):
        return "It has parametrizations: call torch.nn.utils.parametrize.remove_parametrizations first."
    if any(name.endswith("_mask") for name in tensors):
        return "It is pruned: call torch.nn.utils.prune.remove on each pruned layer first."
    if any(name.endswith("weight_g") for name in tensors):
        return "It has weight norms: call torch.nn.utils.remove_weight_norm first."
    rows = {
        layer: tensors[f"{layer}.weight"].shape[0] for layer in last_layers(network) if f"{layer}.weight" in tensors
    }
    if len(set(rows.values())) > 1:
        each = " and ".join(f"{layer} has {count} classes" for layer, count in rows.items())
        auxiliary = any(layer.startswith(AUXILIARY) for layer in rows)
        return f"{each}: replace them together{', or set model.aux_classifier = None' if auxiliary else ''}."
    return (
        "Options can describe another number of classes, other image channels and a missing auxiliary classifier. For "
        "other layers, register a network of your own with segnets.register_model. model.state_dict() keeps its "
        "tensors."
    )


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _size(tensors: Mapping[str, _Shaped], name: str, dimension: int) -> int | None:
    shape = tensors[name].shape if name in tensors else ()
    return shape[dimension] if len(shape) > dimension else None
