"""Run the plain model that an export is compared with."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segnets.deploy._reason import reason_of
from segnets.errors import ExportError
from segnets.layers import as_batch_norm
from segnets.weights.wrappers import hint_for


def evaluation_copy(model: nn.Module) -> nn.Module:
    """Copy a model to the CPU in float32 and eval mode, without gradients.

    Frozen and synchronised batch norms become plain ones. The model itself is not changed.
    """
    with torch.inference_mode(False):
        model = copy.deepcopy(model).eval().to(device="cpu", dtype=torch.float32)
        for name, module in list(model.named_modules()):
            if (plain := as_batch_norm(module)) is not module:
                model.set_submodule(name, plain)
        return model.requires_grad_(False)


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
        raise ExportError("the model's logits are not finite (NaN or infinity); its weights are damaged or diverged")
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
    """Return the logits in the output of `model`.

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
