"""Load a state dict into a model.

Nothing is skipped silently, and the model is only changed if everything fits. Two common differences are reported and
are not errors: an auxiliary classifier on one side only, and a different number of classes. Every other difference is
an error; one message lists all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from segnets.card import ModelCard, ModelConfig
from segnets.errors import WeightsError, warn_caller
from segnets.forks import run_threaded
from segnets.weights.geometry import describe
from segnets.weights.mismatch import AUXILIARY, COUNTER, Mismatch, absent_counters, find_mismatch


@dataclass(frozen=True)
class LoadReport:
    """Result of loading weights into a model.

    Attributes:
        loaded: Number of tensors taken from the weights.
        fresh: Tensors that keep their initial values: last convolutions for a different number of classes, or an
            auxiliary classifier that the weights lack.
        ignored: Tensors of the weights that the model has no place for: an auxiliary classifier, or counters of batch
            norms that are frozen in the model.
        adapted: First convolution, if model and weights have different numbers of image channels. For one channel its
            weights are summed; for more they are repeated and scaled so that the sum stays (as in timm).
        zeroed: Batch norm counters that old files lack; they start at 0.
        cast: Dtype of the weights -> dtype of the model, where they differ.
        stripped: Prefixes and other wrapper parts (DataParallel, torch.compile, Lightning) removed from the names.
    """

    loaded: int
    fresh: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()
    cast: Mapping[str, str] = field(default_factory=dict)
    stripped: tuple[str, ...] = ()

    def card_for(self, card: ModelCard | None) -> ModelCard | None:
        """Return the card of the loaded weights, without class names if last convolutions are newly initialised."""
        if card is None or all(name.startswith(AUXILIARY) for name in self.fresh):
            return card
        return card.without_classes()

    def __str__(self) -> str:
        lines = [f"{self.loaded} tensors loaded"]
        if self.stripped:
            lines.append(f"removed from their names: {', '.join(self.stripped)}")
        if self.fresh:
            lines.append(f"newly initialised: {', '.join(self.fresh)}")
        counters = [name for name in self.ignored if name.endswith(COUNTER)]
        others = [name for name in self.ignored if name not in counters]
        if others:
            lines.append(f"in the file only, ignored: {', '.join(others)}")
        if counters:
            lines.append(f"{len(counters)} batch norm counters are in the file only, ignored")
        if self.adapted:
            lines.append(f"adapted to the image's channels: {', '.join(self.adapted)}")
        if self.zeroed:
            lines.append(f"{len(self.zeroed)} batch norm counters were not in the file and start at 0")
        lines += [f"converted from {source} to {target}" for source, target in self.cast.items()]
        return "; ".join(lines)


def fit(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str, assign: bool = False) -> LoadReport:
    """Load `tensors` into `model`.

    Warns (UserWarning, once) if last convolutions keep their initial values because the number of classes differs.

    Args:
        model: Model to fill. It is only changed if everything fits.
        tensors: State dict with the model's tensor names.
        where: Name of the weights in messages.
        assign: Whether to use the tensors themselves instead of copying their values, for a model on the meta device.
            The model then has their dtype and device, and every difference is an error.

    Raises:
        WeightsError: If the tensors do not fit. The message lists every difference.
    """
    own = model.state_dict()
    if not assign and any(tensor.is_meta for tensor in own.values()):
        raise WeightsError(
            "the model is on the meta device and has no values to fill. Use segnets.load, or call model.to_empty first."
        )
    aux_of_file = [name for name in tensors if name.startswith(AUXILIARY)]
    aux_of_model = [name for name in own if name.startswith(AUXILIARY)]
    ignored = aux_of_file if not aux_of_model and not assign else []
    if not assign:
        ignored += [name for name in tensors if name not in own and name not in ignored and _is_frozen(name, own)]
    fresh = aux_of_model if not aux_of_file and not assign else []
    zeroed = [name for name in absent_counters(own, tensors) if name not in fresh]
    resized = [] if assign else _last_convolutions(model, own, tensors)
    common = [name for name in own if name in tensors and name not in resized]
    adapted = [] if assign else _first_convolution(model, own, tensors)
    explained = {*fresh, *zeroed, *resized, *ignored}
    mismatch = find_mismatch(
        {name: tensor for name, tensor in own.items() if name not in explained},
        {name: tensor for name, tensor in tensors.items() if name not in explained},
        any_shape=adapted,
        compare_dtypes=lambda name: _other_dtype(tensors[name], own[name]),
    )
    if mismatch:
        raise WeightsError(_message(model, own, tensors, where, mismatch))

    state = {name: tensors[name] for name in common}
    state.update({name: _for_channels(tensors[name], own[name].shape[1]) for name in adapted})
    state.update({name: torch.zeros((), dtype=torch.int64) for name in zeroed})
    fresh = [*fresh, *resized]
    cast = {
        str(tensors[name].dtype): str(own[name].dtype)
        for name in common
        if not assign and tensors[name].dtype != own[name].dtype
    }
    # The checks above decided what may be absent.
    run_threaded(lambda: model.load_state_dict(state, strict=False, assign=assign))
    if resized:
        warn_caller(
            f"{where} has {_rows(tensors, resized)} classes, but the model {_rows(own, resized)}: "
            f"{', '.join(resized)} are newly initialised and need training"
        )
    return LoadReport(len(common), tuple(fresh), tuple(ignored), tuple(adapted), tuple(zeroed), cast)


def _is_frozen(name: str, own: Mapping[str, Tensor]) -> bool:
    """Return whether this is the counter of a batch norm that is frozen in the model."""
    return name.endswith(COUNTER) and name.removesuffix(COUNTER) + "running_mean" in own


def _last_convolutions(model: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors of the last convolutions if only their number of classes differs, otherwise none."""
    parts = [(name, part) for name, part in model.named_children() if f"{name}." in ("classifier.", AUXILIARY)]
    names = [
        f"{part_name}.{layer}.{leaf}"
        for part_name, part in parts
        for layer in getattr(part, "last_layers", ())
        for leaf in ("weight", "bias")
    ]
    names = [name for name in names if name in tensors and name in own]
    same_but_rows = all(
        tensors[name].ndim == own[name].ndim and tensors[name].shape[1:] == own[name].shape[1:] for name in names
    )
    rows = {len(tensors[name]) for name in names if tensors[name].ndim} if same_but_rows else set()
    if len(rows) != 1 or rows == {len(own[name]) for name in names}:
        return []
    return names


def _first_convolution(model: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the name of the first convolution's weight if it has three channels, but the model's does not."""
    name = next((f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Conv2d)), "")
    if name not in tensors or tensors[name].ndim != 4 or not tensors[name].is_floating_point():
        return []
    (out, channels, *kernel), wanted = tensors[name].shape, own[name].shape
    return [name] if channels == 3 != wanted[1] and (out, *kernel) == (wanted[0], *wanted[2:]) else []


def _for_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt the weight of a first convolution to a different number of channels, keeping its response to gray images.

    Sums are computed in float32 or wider, so half-precision weights lose no precision in a float32 model.
    """
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)


def _hint(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return a hint that lists the options behind a common mismatch, or an empty string."""
    hints = []
    for prefix in ("", "backbone."):
        deep, plain = f"{prefix}conv1.0.weight", f"{prefix}conv1.weight"
        if deep in tensors and plain in own:
            hints.append('stem="deep"')
        elif plain in tensors and deep in own:
            hints.append('stem="plain"')
        for name in (deep, plain):
            if name in tensors and name in own and tensors[name].shape[1:2] != own[name].shape[1:2]:
                hints.append(f"in_channels={tensors[name].shape[1]}")
        mean = f"{prefix}layer1.0.bn1.running_mean"
        if mean in own and mean not in tensors and mean.replace("running_mean", "weight") in tensors:
            hints.append('norm_layer="group"')
    return f" (the weights look like {', '.join(hints)})" if hints else ""


def _rows(tensors: Mapping[str, Tensor], names: list[str]) -> int:
    return len(tensors[names[0]])


def _castable(source: Tensor, target: Tensor) -> bool:
    """Return whether a cast is allowed: float to float, integer to integer. load_state_dict allows more."""
    if source.is_quantized or source.is_complex() or source.layout != torch.strided or source.is_meta:
        return False
    if target.is_floating_point():
        return source.is_floating_point()
    return not source.is_floating_point() and source.dtype != torch.bool


def _other_dtype(source: Tensor, target: Tensor) -> str:
    """Describe both dtypes if one can't be cast to the other; "" if it can."""
    if _castable(source, target):
        return ""
    form = " without values" if source.is_meta else "" if source.layout == torch.strided else f" {source.layout}"
    return f"file {source.dtype}{form}, model {target.dtype}"


def _message(
    model: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str, mismatch: Mismatch
) -> str:
    config = getattr(model, "config", None)
    title = describe(config) if isinstance(config, ModelConfig) else type(model).__name__
    first = f"{where} does not fit {title}: {mismatch.summary()}{_hint(own, tensors)}"
    return "\n".join([first, *mismatch.lines()])
