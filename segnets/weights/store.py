"""Save and load models: `save`, `load` and `load_weights`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON, Colour, ModelCard, ModelConfig, check_card, with_labels
from segnets.errors import WeightsError, warn_caller
from segnets.garbage_collection import without_garbage_collection
from segnets.preprocessing import Preprocessing
from segnets.registry import build_described
from segnets.weights.fitting import LoadReport, fit
from segnets.weights.geometry import other_geometry
from segnets.weights.sources import read_source
from segnets.weights.weights_file import ALIGNMENT, read_weights_file, write_weights_file


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    palette: Sequence[Colour] | None = None,
    preprocessing: Preprocessing | None = None,
    provenance: Mapping[str, JSON] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a model from a builder to one self-describing `.safetensors` file.

    The same model gives the same bytes. An existing file is replaced only after the new one was read back and compared.
    Arguments that are not given come from `model.card`, the card of the loaded weights. Provenance that holds only for
    the original tensors is kept as `derived_from`.

    Args:
        model: Model with a `config`, as returned by builders and `load`.
        path: File to write.
        classes: Name of each class id.
        palette: RGB colour (0..255) of each class id.
        preprocessing: Preprocessing from an image to the input of the network.
        provenance: Facts about the origin of the weights, as JSON values.
        overwrite: Whether to replace an existing file.

    Raises:
        WeightsError: If the model has no config or was changed since it was built, the card is inconsistent, or a
            tensor cannot be stored.
        OutputError: If `path` cannot be written.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise WeightsError(
            f"this {type(model).__name__} has no config, so a file could not describe it. Build it with "
            "segnets.create_model, or set model.config to a segnets.ModelConfig."
        )
    card = (getattr(model, "card", None) or ModelCard()).derived()
    if preprocessing is not None:
        card = replace(card, preprocessing=preprocessing)
    if provenance is not None:
        card = replace(card, provenance=dict(provenance))
    num_classes = config.options.get("num_classes")
    try:
        card = with_labels(card, classes, palette)
        check_card(card, num_classes if isinstance(num_classes, int) else None)
    except ValueError as error:
        raise WeightsError(str(error)) from None
    tensors = model.state_dict()
    _check_is_described(config, tensors)
    write_weights_file(path, tensors, config, card, overwrite=overwrite)


def _check_is_described(config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Check that `load` will accept the file, before the file replaces a valid one."""
    described = build_described(config.name, dict(config.options)).state_dict()
    if [(name, tensor.shape) for name, tensor in described.items()] == [(n, t.shape) for n, t in tensors.items()]:
        return
    other = [name for name in {**described, **tensors} if _shape(described, name) != _shape(tensors, name)]
    raise WeightsError(
        f"this model was changed and is no longer the {config.name} that model.config describes: {', '.join(other[:5])}"
        f"{f' and {len(other) - 5} more tensors' if len(other) > 5 else ''} differ. Build a model with the options "
        "that you need (num_classes, aux_loss), and load the weights into it."
    )


def _shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def load(path: str | os.PathLike[str]) -> nn.Module:
    """Build the model that a weights file describes.

    The tensors are mapped from the file: hardly anything is copied, and pages are read when they are first used. The
    tensors keep the dtype of the file; `model.float()` or `model.half()` changes it.

    Args:
        path: Weights file (.safetensors) written by segnets.

    Returns:
        The model in eval mode, with the file's `config` and `card`.

    Raises:
        WeightsError: If segnets did not write the file, it is damaged, its network is not registered
            (`segnets.register_model`), or its tensors do not fit its network.
    """
    file = read_weights_file(path)
    if file.config is None or file.card is None:
        raise WeightsError(
            f"{path}: the file does not describe its network. Convert it with: weights-tools convert {path} "
            "OUT.safetensors, or build the network and call segnets.load_weights."
        )
    with without_garbage_collection():
        try:
            model = build_described(file.config.name, dict(file.config.options))
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
        fit(model, {name: _aligned(t) for name, t in file.tensors.items()}, where=str(path), assign=True)
    _attach(model, file.card)
    return model.eval()


def _aligned(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if its address is unaligned, because kernels may then give other last bits."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 or not tensor.is_floating_point() else tensor.clone()


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor]) -> LoadReport:
    """Copy weights into a model, which keeps its dtype and device.

    An auxiliary classifier on one side only is reported and is not an error. If the number of classes differs, the last
    1x1 convolutions keep their initial values, with one warning. Another warning names the options of the file (output
    stride, eps, ...) that differ from the model's and change what the tensors compute.

    Args:
        model: Model to fill.
        source: `.safetensors` or plain `.pth` file, or a state dict, in torchvision's names.

    Returns:
        Which tensors were loaded, ignored, or left at their initial values.

    Raises:
        WeightsError: If the weights do not fit. The message lists every difference, and the model is unchanged.
    """
    found = read_source(source)
    warning = other_geometry(getattr(model, "config", None), found.config, found.where)
    report = fit(model, found.tensors, where=found.where)
    _attach(model, report.card_for(found.card))
    if warning:
        warn_caller(warning)
    return report


def _attach(model: Any, card: ModelCard | None) -> None:
    """Attach the card of the weights to the model; `save` and `export` pass it on."""
    model.card = card
