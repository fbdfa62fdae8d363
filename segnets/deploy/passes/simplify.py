"""Passes of every format that drop what inference doesn't need and fold batch norms into convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from segnets.deploy.check.reference import evaluation_copy
from segnets.deploy.passes._graph import consecutive_pairs
from segnets.deploy.passes.context import Context, Outcome


def copy_for_evaluation(network: nn.Module, _context: Context) -> Outcome:
    """Copy the network into eval mode on the CPU in float32."""
    return Outcome(evaluation_copy(network))


def drop_aux_classifier(network: nn.Module, _context: Context) -> Outcome:
    """Drop the auxiliary classifier, which only training uses."""
    dropped = getattr(network, "aux_classifier", None) is not None
    if dropped:
        network.register_module("aux_classifier", None)
    return Outcome(network, {"aux_classifiers": int(dropped)})


def remove_dropouts(network: nn.Module, _context: Context) -> Outcome:
    """Replace every dropout with an identity."""
    dropouts = [module for module in network.modules() if isinstance(module, _DropoutNd)]
    return Outcome(network, {"dropouts": _replace_by_identities(network, dropouts)})


def fold_batch_norms(network: nn.Module, context: Context) -> Outcome:
    """Fold every batch norm that directly follows a convolution into that convolution.

    Raises:
        ExportError: If the network doesn't run on a (1, channels, 64, 64) input, or doesn't return {"out": logits}.
    """
    pairs = [
        (convolution, norm)
        for convolution, norm in consecutive_pairs(network, nn.Conv2d, nn.BatchNorm2d, context.channels)
        if norm.running_mean is not None
    ]
    for convolution, norm in pairs:
        _fold(convolution, norm)
    return Outcome(network, {"batch_norms": _replace_by_identities(network, [norm for _, norm in pairs])})


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Scale the convolution's kernels and set its bias; compute in float64 and round once."""
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


def _replace_by_identities(network: nn.Module, modules: Sequence[nn.Module]) -> int:
    """Replace `modules` with identities, under all of their names, and return their number."""
    unwanted = set(modules)
    names = [name for name, module in network.named_modules(remove_duplicate=False) if module in unwanted]
    for name in names:
        network.set_submodule(name, nn.Identity())
    return len(unwanted)
