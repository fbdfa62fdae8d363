"""What a conversion may change on request: no auxiliary classifier, other classes, another dtype. All else is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from segnets.card import ModelCard, ModelConfig
from segnets.errors import WeightsError
from segnets.registry import MODELS, build_described
from weights_tools._text import join_names

MOST_CLASSES = 1 << 20
_AUXILIARY = "aux_classifier."


@dataclass(frozen=True)
class Weights:
    """A network and its tensors, and what the weights mean. changes: what was done to them, for the record."""

    config: ModelConfig
    tensors: Mapping[str, Tensor]
    card: ModelCard
    changes: tuple[str, ...] = ()


def drop_auxiliary(weights: Weights) -> Weights:
    """Leave the auxiliary classifier out; a network without one stays as it is."""
    kept = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(_AUXILIARY)}
    if len(kept) == len(weights.tensors):
        return weights
    config = ModelConfig(weights.config.name, {**weights.config.options, "aux_loss": False})
    return replace(weights, config=config, tensors=kept, changes=(*weights.changes, "auxiliary classifier dropped"))


def cast(weights: Weights, name: str) -> Weights:
    """Cast the floating-point tensors to a dtype. Raises WeightsError for numbers that only become infinite by it.

    The record keeps the wish by itself, so it is none of `changes`.
    """
    dtype: torch.dtype = getattr(torch, name)
    tensors, beyond, largest = {}, [], 0.0
    for key, tensor in weights.tensors.items():
        tensors[key] = made = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if made.dtype == tensor.dtype or torch.finfo(dtype).max >= torch.finfo(tensor.dtype).max:
            continue
        lost = tensor.isfinite() & ~made.isfinite()
        if lost.any():
            beyond.append(f"{key} ({int(lost.sum()):,} of {tensor.numel():,})")
            largest = max(largest, float(tensor[lost].abs().max()))
    if beyond:
        fits = "bfloat16 has the range" if largest < torch.finfo(torch.bfloat16).max else "keep its dtype"
        raise WeightsError(f"{len(beyond)} tensors hold values that do not fit {name}: {join_names(beyond)}; {fits}")
    return replace(weights, tensors=tensors)


def with_class_names(weights: Weights, names: tuple[str, ...]) -> Weights:
    """Name the classes. Raises WeightsError if there are not as many."""
    count = weights.config.options.get("num_classes")
    if len(names) != count:
        raise WeightsError(f"its network has {count} classes, but {len(names)} class names were given")
    # Colours of a former class list would belong to other classes.
    palette = weights.card.palette if names == weights.card.classes else ()
    return replace(weights, card=replace(weights.card, classes=names, palette=palette))


def with_classes(weights: Weights, rows: Sequence[int | None], names: tuple[str, ...] = ()) -> Weights:
    """Give the last layers one row for each of `rows`: that of a class of before, or None for a fresh one.

    Fresh rows are drawn as torch initialises a convolution, from a fixed seed, so that the same call gives the same
    bytes.
    """
    layers = last_layers(weights.config)
    if not layers:
        raise WeightsError("it is a backbone alone, which has no classes")
    tensors = dict(weights.tensors)
    for layer in layers:
        weight = tensors[f"{layer}.weight"]
        fan_in = weight[0].numel()
        for leaf in ("weight", "bias"):
            name = f"{layer}.{leaf}"
            if name in tensors:
                tensors[name] = _rows(tensors[name], rows, fan_in)
    config = ModelConfig(weights.config.name, {**weights.config.options, "num_classes": len(rows)})
    palette = weights.card.palette
    old = [row for row in rows if row is not None]
    colours = tuple(palette[row] for row in old) if palette and len(old) == len(rows) else ()
    fresh = len(rows) - len(old)
    change = f"{len(rows)} classes of which {fresh} are initialised afresh" if fresh else f"{len(rows)} classes kept"
    card = replace(weights.card, classes=names, palette=colours)
    return Weights(config, tensors, card, (*weights.changes, f"last layers of {change}: {', '.join(layers)}"))


def _rows(tensor: Tensor, rows: Sequence[int | None], fan_in: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    bound = fan_in**-0.5
    # In float32 whatever the dtype: few CPU generators draw 8-bit floats.
    drawn = torch.empty((len(rows), *tensor.shape[1:])).uniform_(-bound, bound, generator=generator)
    result = drawn.to(tensor.dtype)
    for new, old in enumerate(rows):
        if old is not None:
            result[new] = tensor[old]
    return result


def last_layers(config: ModelConfig) -> list[str]:
    """The layers whose rows are the classes, by their names in the state dict."""
    if config.name not in MODELS:
        network = build_described(config.name, dict(config.options))
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        return linear[-1:]
    network = build_described(config.name, dict(config.options))
    found = []
    for part in ("classifier", "aux_classifier"):
        head = getattr(network, part, None)
        found += [f"{part}.{layer}" for layer in getattr(head, "last_layers", ())]
    return found
