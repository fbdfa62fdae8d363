"""Run the plain model that an export is compared with."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from segnets.deploy._reason import reason_of
from segnets.errors import ExportError
from segnets.layers import as_batch_norm
from segnets.weights.wrappers import hint_for


def evaluation_copy(model: nn.Module) -> nn.Module:
    """Copy a model to the CPU in float32 and eval mode, without gradients.

    Frozen and synchronised batch norms become plain ones. The model itself is not changed.
    """
    with torch.inference_mode(False), torch.no_grad():
        model = _deepcopy(model).eval().to(device="cpu", dtype=torch.float32)
        for module in list(model.modules()):
            _keep_computed_weights(module)
        for name, module in list(model.named_modules()):
            if (plain := as_batch_norm(module)) is not module:
                model.set_submodule(name, plain)
        return model.requires_grad_(False)


def _deepcopy(model: nn.Module) -> nn.Module:
    """Copy a model that may hold computed tensors (hooks of weight norm and pruning), which torch can't copy."""
    computed = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]
    try:
        for module, name, value in computed:
            setattr(module, name, value.detach())
        return copy.deepcopy(model)
    finally:
        for module, name, value in computed:
            setattr(module, name, value)


def _keep_computed_weights(module: nn.Module) -> None:
    """Replace weights that are computed in every call with their values: parametrizations, weight norm, pruning."""
    if parametrize.is_parametrized(module):
        # torch's remove_parametrizations would change the class, which the copy shares with the original.
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        values = {name: getattr(module, name).detach().clone() for name in parametrizations}
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
    for number, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, (prune.BasePruningMethod, WeightNorm, SpectralNorm)):
            hook(module, None)  # computes the weight
            hook.remove(module)
            del module._forward_pre_hooks[number]


def logits_of(model: nn.Module, image: Tensor) -> Tensor:
    """Return the logits of a plain model.

    Args:
        model: A model in eval mode that returns `{"out": logits}`.
        image: Normalised image, (N, 3, H, W), in the model's dtype.

    Returns:
        Logits, (N, C, H, W).

    Raises:
        ExportError: If the model does not run, returns no logits, or returns NaN or infinity.
    """
    with torch.inference_mode():
        logits = logits_in(returned_by(model, image), model)
    if not bool(torch.isfinite(logits).all()):
        raise ExportError(
            "the model's logits are not finite (NaN or infinity); its weights are damaged, or its training diverged"
        )
    return logits


def returned_by(model: nn.Module, image: Tensor) -> object:
    """Run a model on a float32 image, and return its output.

    Raises:
        ExportError: If the model does not run on this image.
    """
    try:
        output: object = model(image)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(
            f"the model doesn't run on a float32 {tuple(image.shape)} input: {reason_of(error)}"
        ) from error
    return output


def logits_in(output: object, model: nn.Module) -> Tensor:
    """Extract the logits from the output of `model`.

    Raises:
        ExportError: If the output is not a dictionary `{"out": logits}` with logits (N, C, H, W).
    """
    logits = output.get("out") if isinstance(output, Mapping) else None
    if isinstance(logits, Tensor) and logits.dim() == 4:
        return logits
    raise ExportError(
        f"model: this {type(model).__name__} returns a {type(output).__name__}, not {{'out': (N, C, H, W) logits}}. "
        + (
            hint_for(model).rstrip(".")
            or "Export a segmentation model (backbone and classifier); an image classifier or a bare backbone has no "
            "mask"
        )
    )
