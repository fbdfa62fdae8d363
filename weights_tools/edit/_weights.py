"""Edit the weights of a network: drop the auxiliary classifier, replace classes, cast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from segnets.card import Decoding, ModelCard, ModelConfig
from segnets.errors import WeightsError
from segnets.registry import MODELS, build_described
from weights_tools._text import join_names

_AUXILIARY = "aux_classifier."


@dataclass(frozen=True)
class Weights:
    """A network's configuration, tensors and card.

    Attributes:
        config: Model name and options.
        tensors: Tensors under segnets' names.
        card: Classes, palette, preprocessing and provenance of the weights.
        changes: Descriptions of the edits made so far, for the record.
    """

    config: ModelConfig
    tensors: Mapping[str, Tensor]
    card: ModelCard
    changes: tuple[str, ...] = ()


def drop_auxiliary(weights: Weights) -> Weights:
    """Remove the auxiliary classifier, if there is one."""
    kept = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(_AUXILIARY)}
    if len(kept) == len(weights.tensors):
        return weights
    config = ModelConfig(weights.config.name, {**weights.config.options, "aux_loss": False})
    return replace(weights, config=config, tensors=kept, changes=(*weights.changes, "auxiliary classifier dropped"))


def cast(weights: Weights, name: str) -> Weights:
    """Cast the floating-point tensors to the dtype called `name`.

    The cast is recorded separately (`Edits.dtype`) and does not appear in `Weights.changes`.

    Raises:
        WeightsError: If finite values would become infinite.
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
        fits = (
            "Use bfloat16, which has a larger range."
            if largest < torch.finfo(torch.bfloat16).max
            else "Keep the dtype."
        )
        raise WeightsError(f"{len(beyond)} tensors hold values that do not fit in {name}: {join_names(beyond)}. {fits}")
    return replace(weights, tensors=tensors)


def name_classes(weights: Weights, names: tuple[str, ...]) -> Weights:
    """Set the class names; keep the palette only if the names did not change.

    Raises:
        WeightsError: If the network has a different number of classes.
    """
    count = weights.config.options.get("num_classes")
    assert isinstance(count, int)
    decoding = weights.card.decoding or Decoding.default(count)
    if weights.config.name in MODELS and decoding.rule == "threshold":
        if len(names) != 2:
            raise WeightsError(
                f"the network has one channel, so its ids are 0 and 1, but {len(names)} class "
                f"{'name was' if len(names) == 1 else 'names were'} given. Pass two, the background first"
            )
    elif len(names) != count:
        raise WeightsError(f"the network has {count} classes, but {len(names)} class names were given")
    palette = weights.card.palette if names == weights.card.classes else ()
    return replace(weights, card=replace(weights.card, classes=names, palette=palette))


def replace_classes(weights: Weights, rows: Sequence[int | None], names: tuple[str, ...] = ()) -> Weights:
    """Rebuild the last layers with one row per new class.

    New rows are initialised like a torch convolution, from a fixed seed, so the same call gives the same bytes.

    Args:
        weights: A network with classes.
        rows: For each new class, the source class whose row it takes, or None for a newly initialised row.
        names: Names of the new classes; empty if unknown.

    Raises:
        WeightsError: If the network is a backbone without classes.
    """
    layers = last_layers(weights.config)
    if not layers:
        raise WeightsError("the network is a backbone alone, which has no classes")
    tensors = dict(weights.tensors)
    for layer in layers:
        weight = tensors[f"{layer}.weight"]
        fan_in = weight[0].numel()
        for leaf in ("weight", "bias"):
            name = f"{layer}.{leaf}"
            if name in tensors:
                tensors[name] = _select_rows(tensors[name], rows, fan_in)
    config = ModelConfig(weights.config.name, {**weights.config.options, "num_classes": len(rows)})
    palette = weights.card.palette
    old = [row for row in rows if row is not None]
    colours = tuple(palette[row] for row in old) if palette and len(old) == len(rows) else ()
    new = len(rows) - len(old)
    change = f"{len(rows)} classes, {new} of them newly initialised" if new else f"{len(rows)} classes of the source"
    decoding = weights.card.decoding
    if decoding is not None and not decoding.fits(len(rows)):
        decoding = None
    if names and (decoding or Decoding.default(len(rows))).rule == "threshold":
        names, colours = ("background", *names), ()
    card = replace(weights.card, classes=names, palette=colours, decoding=decoding)
    return Weights(config, tensors, card, (*weights.changes, f"last layers of {change}: {', '.join(layers)}"))


def _select_rows(tensor: Tensor, rows: Sequence[int | None], fan_in: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    bound = fan_in**-0.5
    # Draw in float32, because few CPU generators support 8-bit floats.
    drawn = torch.empty((len(rows), *tensor.shape[1:])).uniform_(-bound, bound, generator=generator)
    result = drawn.to(tensor.dtype)
    for new, old in enumerate(rows):
        if old is not None:
            result[new] = tensor[old]
    return result


def last_layers(config: ModelConfig) -> list[str]:
    """Return the state dict paths of the layers that have one row per class."""
    network = build_described(config.name, dict(config.options))
    if config.name not in MODELS:  # a classifier
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        return linear[-1:]
    found = []
    for part in ("classifier", "aux_classifier"):
        head = getattr(network, part, None)
        found += [f"{part}.{layer}" for layer in getattr(head, "last_layers", ())]
    return found
