"""Make a network ready to deploy: no auxiliary head, no dropout, batch norms folded, heads that compute less.

It computes the same function with other last bits; that's why it happens on a copy, in an export, and never in
the plain model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from segnets.deploy.check.reference import evaluation_copy
from segnets.deploy.passes import aspp
from segnets.deploy.passes._graph import followers
from segnets.deploy.passes.lraspp import ClassifiedFirst
from segnets.heads.lraspp import LRASPPHead
from segnets.layers import ASPP


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
    for name, module in list(model.named_modules()):
        if type(module) is LRASPPHead:
            model.set_submodule(name, ClassifiedFirst(module))
        elif type(module) is ASPP and aspp.suits(module):
            model.set_submodule(name, aspp.PooledApart(module))
    return Optimized(model, len(pairs), dropouts, dropped)


def _convolutions_with_batch_norm(model: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    return [
        (convolution, norm)
        for convolution, norm in followers(model, nn.Conv2d, nn.BatchNorm2d)
        if norm.running_mean is not None
    ]


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
