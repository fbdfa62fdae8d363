"""save, load and load_weights: the three calls that most people need."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON, Colour, ModelCard, ModelConfig
from segnets.errors import WeightsError, warn_caller
from segnets.garbage_collection import without_garbage_collection
from segnets.preprocessing import Preprocessing
from segnets.registry import build_described
from segnets.weights.description import check_card, listed
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
    """Write a model that a builder made to one self-describing `.safetensors` file.

    classes, palette (RGB, 0..255), preprocessing, provenance: what is not given is kept from the file that the model
    was loaded from; what a conversion proved of that file's tensors is kept as `derived_from`, without the proof.
    The same model gives the same bytes; a file that stood there survives any failure.

    Raises WeightsError if the model does not know its builder or is no longer what that builds, if the card can't be
    right or a tensor can't be stored; OutputError if `path` can't be written.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise WeightsError(
            f"this {type(model).__name__} does not know which builder makes it, so a file could not describe it; "
            "build it with segnets.create_model, or set model.config to a segnets ModelConfig"
        )
    card = (getattr(model, "card", None) or ModelCard()).derived()
    if classes is not None:
        card = replace(card, classes=listed("classes", classes))
    if palette is not None:
        card = replace(card, palette=tuple(listed("palette colour", c) for c in listed("palette", palette)))
    if preprocessing is not None:
        card = replace(card, preprocessing=preprocessing)
    if provenance is not None:
        card = replace(card, provenance=dict(provenance))
    num_classes = config.options.get("num_classes")
    check_card(card, num_classes if isinstance(num_classes, int) else None)
    tensors = model.state_dict()
    _check_is_described(config, tensors)
    write_weights_file(path, tensors, config, card, overwrite=overwrite)


def _check_is_described(config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """A file that `load` would refuse must not take the place of one that it takes."""
    described = build_described(config.name, dict(config.options)).state_dict()
    if [(name, tensor.shape) for name, tensor in described.items()] == [(n, t.shape) for n, t in tensors.items()]:
        return
    other = [name for name in {**described, **tensors} if _shape(described, name) != _shape(tensors, name)]
    raise WeightsError(
        f"this model was changed and is no longer the {config.name} that model.config describes: {', '.join(other[:5])}"
        f"{f' and {len(other) - 5} more tensors' if len(other) > 5 else ''} differ; build it with the options that you "
        "need (num_classes, aux_loss), and load the weights into that"
    )


def _shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def load(path: str | os.PathLike[str]) -> nn.Module:
    """Build the model that a weights file describes, in eval mode, with its tensors mapped from the file.

    Nothing is initialised and next to nothing copied: pages are read when they are first used. The tensors have the
    dtype of the file; `model.float()` or `.half()` changes it. `model.config` and `model.card` are what the file says.

    Raises WeightsError if the file is not one of ours, is damaged, or holds other tensors than its model needs.
    """
    file = read_weights_file(path)
    if file.config is None or file.card is None:
        raise WeightsError(
            f"{path}: does not say which model it is for; convert it with: weights-tools convert {path} "
            "OUT.safetensors, or build the model and use segnets.load_weights"
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
    """The tensor, or a copy of one that lies where kernels may compute other last bits: few and small in our files."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 or not tensor.is_floating_point() else tensor.clone()


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor]) -> LoadReport:
    """Copy weights into a model: from a `.safetensors` or plain `.pth` file, or a state dict, in torchvision's names.

    The model keeps its dtype and device. Returns what was loaded, left fresh and ignored.

    Raises WeightsError listing every missing, unexpected and misshapen tensor at once; the model is then unchanged.
    An auxiliary classifier on one side only is reported and no error; for another number of classes the last 1x1
    convolutions keep their initial values, with one warning. So does a file that was made for other options (output
    stride, eps, ...), under which the same tensors compute something else.
    """
    found = read_source(source)
    warning = other_geometry(getattr(model, "config", None), found.config, found.where)
    report = fit(model, found.tensors, where=found.where)
    _attach(model, report.card_for(found.card))
    if warning:
        warn_caller(warning)
    return report


def _attach(model: Any, card: ModelCard | None) -> None:
    """The card of the weights becomes the model's; `save` and `export` pass it on. (Any: a plain attribute.)"""
    model.card = card
