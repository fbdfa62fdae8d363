"""Make a network ready to deploy: no auxiliary head, no dropout, batch norms folded into their convolutions.

Folding computes the same function with other last bits; that's why it happens on a copy, in an export, and never in
the plain model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from segnets.errors import ExportError
from segnets.export.compare import logits_in
from segnets.export.reason import reason_of
from segnets.layers import as_batch_norm

_First = TypeVar("_First", bound=nn.Module)
_Second = TypeVar("_Second", bound=nn.Module)


@dataclass(frozen=True)
class Optimized:
    """A network made ready to deploy, and what was done to it."""

    model: nn.Module
    folded_batch_norms: int
    removed_dropouts: int
    dropped_aux_classifier: bool


def optimize(model: nn.Module) -> Optimized:
    """Copy `model` into eval mode on the CPU in float32 and simplify the copy; `model` itself is not changed.

    Raises ExportError if the model doesn't run on a (1, 3, 64, 64) input, or gives no {"out": logits}.
    """
    model = evaluation_copy(model)
    dropped = getattr(model, "aux_classifier", None) is not None
    if dropped:
        model.register_module("aux_classifier", None)
    dropouts = _replace(model, [m for m in model.modules() if isinstance(m, _DropoutNd)])
    pairs = _convolutions_with_batch_norm(model)
    for convolution, norm in pairs:
        _fold(convolution, norm)
    _replace(model, [norm for _, norm in pairs])
    return Optimized(model, len(pairs), dropouts, dropped)


def evaluation_copy(model: nn.Module) -> nn.Module:
    """Copy `model` into eval mode, on the CPU, in float32, without gradients; frozen and synced norms made plain."""
    with torch.inference_mode(False):
        model = copy.deepcopy(model).eval().to(device="cpu", dtype=torch.float32)
        for name, module in list(model.named_modules()):
            if (plain := as_batch_norm(module)) is not module:
                model.set_submodule(name, plain)
        return model.requires_grad_(False)


def _convolutions_with_batch_norm(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    return [
        (convolution, norm)
        for convolution, norm in followers(model, nn.Conv2d, nn.BatchNorm2d)
        if norm.running_mean is not None
    ]


def followers(
    model: nn.Module, first: type[_First], second: type[_Second] | tuple[type[_Second], ...]
) -> list[tuple[_First, _Second]]:
    """Run the model once and see which module of kind `second` reads the untouched output of which of kind `first`.

    Watching the data finds the pairs whatever the modules are called and wherever they stand. A module that runs more
    than once is left alone. That nobody else reads the first one's output can't be seen here; the comparison after the
    export would find it.
    Raises ExportError if the model doesn't run on a (1, 3, 64, 64) input, or gives no {"out": logits}.
    """
    produced: dict[int, tuple[_First, int]] = {}
    kept: list[Tensor] = []  # alive, so that no id is used twice
    calls: dict[nn.Module, int] = {}
    pairs: list[tuple[_First, _Second]] = []

    def after_first(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, first)
        calls[module] = calls.get(module, 0) + 1
        kept.append(output)
        produced[id(output)] = (module, output._version)

    def before_second(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, second)
        calls[module] = calls.get(module, 0) + 1
        source, version = produced.get(id(inputs[0]), (None, -1))
        # Another version means that something wrote into the output in place, such as an activation.
        if source is not None and inputs[0]._version == version:
            pairs.append((source, module))

    modules = list(model.modules())
    handles = [m.register_forward_hook(after_first) for m in modules if isinstance(m, first)]
    handles += [m.register_forward_pre_hook(before_second) for m in modules if isinstance(m, second)]
    try:
        with torch.no_grad(), torch.inference_mode(False):  # tensors of inference mode have no version
            scores = model(torch.zeros(1, 3, 64, 64, dtype=torch.float32))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"the model doesn't run on a float32 (1, 3, 64, 64) input: {reason_of(error)}") from error
    finally:
        for handle in handles:
            handle.remove()
    logits_in(scores, model)  # raises for a classifier
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def convolution_inputs(model: nn.Module, image_size: tuple[int, int]) -> dict[nn.Module, list[int]]:
    """The shape that every convolution reads of one image of this size, found without computing anything.

    image_size: (height, width). Convolutions that don't run are left out.
    """
    shapes = copy.deepcopy(model).to("meta")
    originals = dict(zip(shapes.modules(), model.modules(), strict=True))
    sizes: dict[nn.Module, list[int]] = {}

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[originals[module]] = list(inputs[0].shape)

    for module in shapes.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(before)
    with torch.no_grad():
        shapes(torch.zeros(1, 3, *image_size, device="meta"))
    return sizes


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Scale the convolution's kernels and set its bias; computed in float64 and rounded once."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double() * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    if convolution.bias is not None:
        bias = bias + convolution.bias.double() * scale
    weight = convolution.weight.double() * scale.view(-1, 1, 1, 1)
    convolution.weight = nn.Parameter(weight.float(), requires_grad=False)
    convolution.bias = nn.Parameter(bias.float(), requires_grad=False)


def _replace(model: nn.Module, modules: Sequence[nn.Module]) -> int:
    """Put an identity in the place of each of `modules`, under every name that it has; return how many there were."""
    unwanted = set(modules)
    names = [name for name, module in model.named_modules(remove_duplicate=False) if module in unwanted]
    for name in names:
        model.set_submodule(name, nn.Identity())
    return len(unwanted)
