"""Save and load models: `save`, `load` and `load_weights`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON, Colour, Decoding, ModelCard, ModelConfig, assumed_fields, check_stated, with_labels
from segnets.errors import OutputError, WeightsError, warn_caller
from segnets.files import format_of_suffix
from segnets.forks import run_threaded
from segnets.garbage_collection import without_garbage_collection
from segnets.preprocessing import Preprocessing
from segnets.registry import BACKBONES, build_described
from segnets.segmenter import channels_differ, image_channels
from segnets.weights.actual import describe_as_is
from segnets.weights.fitting import LoadReport, fit
from segnets.weights.geometry import other_geometry
from segnets.weights.sources import read_source, unwrap_source
from segnets.weights.weights_file import ALIGNMENT, read_weights_file, write_weights_file
from segnets.weights.wrappers import clean_names, hint_for, is_sharded, unwrap, without_inner_wrappers


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    palette: Sequence[Colour] | None = None,
    preprocessing: Preprocessing | None = None,
    decoding: Decoding | None = None,
    provenance: Mapping[str, JSON] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a model from a builder to one self-describing `.safetensors` file.

    The file describes the model as it is now. A replaced last convolution, another first convolution or a removed
    auxiliary classifier become other options (`num_classes`, `in_channels`, `aux_loss`), with one warning. Everything
    else that makes the described network compute something else is refused: both run on a small image in eval mode.
    Hooks of the model run, so a hook that only observes is allowed.

    The same model gives the same bytes. An existing file is replaced only after the new one was read back and compared.
    Arguments that are not given come from `model.card`, the card of the loaded weights. Provenance that holds only for
    the original tensors is kept as `derived_from`.

    Args:
        model: Model with a `config`, as returned by builders and `load`. Wrappers around or inside it are removed
            (torch.compile, DataParallel, DistributedDataParallel, AveragedModel, FSDP, activation checkpointing). A
            sharded model is gathered, so every process must call `save`, each with its own path.
        path: File to write, conventionally NAME.safetensors. A suffix of another known format (.pt, .pth, .ckpt, .bin,
            ...) is refused. Every other name is accepted, because files are read by their content.
        classes: Name of each class id.
        palette: RGB colour (0..255) of each class id.
        preprocessing: Preprocessing from an image to the input of the network. If it is not given and the model has no
            card, that of torchvision's weights is recorded as assumed, with a warning.
        decoding: Rule that turns logits into ids, for example `Decoding("threshold", 0.5)` for a network of one
            channel. The default is argmax, or a threshold of 0.5 for one channel.
        provenance: Facts about the origin of the weights, as JSON values.
        overwrite: Whether to replace an existing file.

    Raises:
        WeightsError: If the model has no config or was changed since it was built, the card is inconsistent, its
            preprocessing is for a different number of channels, or a tensor cannot be stored.
        OutputError: If `path` cannot be written, or has the suffix of another format.
        ForkError: If this process was forked after a network had run in several threads.
    """
    _check_suffix(Path(path))
    network = unwrap(model)
    config = getattr(network, "config", None)
    if not isinstance(config, ModelConfig):
        raise WeightsError(
            f"this {type(model).__name__} has no config, so a file could not describe it. "
            + (hint_for(model) or "Build it with segnets.create_model, or set model.config to a segnets.ModelConfig.")
        )
    tensors = _full_tensors(model)
    actual = describe_as_is(network, config, tensors)
    if actual.problem:
        raise WeightsError(f"{os.fspath(path)}: not written. {actual.problem}")
    known: ModelCard | None = getattr(network, "card", None)
    card = (known or ModelCard()).derived()
    num_classes = actual.config.options.get("num_classes")
    if num_classes != config.options.get("num_classes"):
        card = card.without_classes()  # they belong to the head that was replaced
    if decoding is not None:
        card = replace(card, decoding=decoding)
    if provenance is not None:
        card = replace(card, provenance=dict(provenance)).assuming(assumed_fields(card))
    # segnets prepares no images for classifiers.
    assumes = known is None and preprocessing is None and config.name not in BACKBONES
    if preprocessing is not None:
        card = card.preparing(preprocessing)
    elif assumes:
        card = card.assuming()
    try:
        card = with_labels(card, classes, palette)
        check_stated(card, num_classes if isinstance(num_classes, int) else None)
    except ValueError as error:
        raise WeightsError(str(error)) from None
    channels = image_channels(network)
    misfit = "" if channels is None else channels_differ(channels, card.preprocessing)
    if misfit and preprocessing is not None:
        raise WeightsError(f"{os.fspath(path)}: not written. {misfit}")
    write_weights_file(path, tensors, actual.config, card, overwrite=overwrite)
    if actual.changed:
        warn_caller(
            f"{os.fspath(path)}: the model was changed since it was built; saved with {', '.join(actual.changed)}"
        )
    if assumes:
        warn_caller(
            f"{os.fspath(path)}: no preprocessing was given, so the file records as assumed: "
            f"{card.preprocessing.describe()}. Pass preprocessing=segnets.Preprocessing(...) with the values used in "
            f"training{'. ' + misfit if misfit else ''}"
        )
    elif misfit:
        warn_caller(f"{os.fspath(path)}: {misfit}")


def _check_suffix(path: Path) -> None:
    """Check that the suffix does not belong to another format, because some programs choose a reader by it.

    Raises:
        OutputError: If it does.
    """
    known = format_of_suffix(path)
    if known and path.suffix.lower() != ".safetensors":
        raise OutputError(
            f"{path}: the suffix {path.suffix!r} is for {known}, but save writes safetensors. Name the file "
            f"{path.with_suffix('.safetensors').name}. torch.save(model.state_dict(), PATH) writes a PyTorch "
            "checkpoint, and segnets.export the formats for deployment"
        )


def _full_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a network, without wrapper parts in the names, and gathered if it is sharded (FSDP)."""
    module = model if is_sharded(model) else without_inner_wrappers(model)
    tensors = module.state_dict()
    clean = clean_names(tensors)
    return {
        clean[name]: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for name, tensor in tensors.items()
    }


def load(path: str | os.PathLike[str], *, dtype: torch.dtype | str | None = torch.float32) -> nn.Module:
    """Build the model that a weights file describes.

    Tensors of this dtype are mapped from the file: hardly anything is copied, and pages are read when they are first
    used. Tensors of other dtypes are converted.

    Args:
        path: Weights file (.safetensors) written by segnets.
        dtype: Floating-point dtype of the model, such as torch.bfloat16 or "bfloat16". The default computes on float32
            images, whatever the file holds. None keeps the dtype of the file.

    Returns:
        The model in eval mode, with the file's `config` and `card`.

    Raises:
        WeightsError: If segnets did not write the file, it is damaged, its network is not registered
            (`segnets.register_model`), its tensors do not fit its network, or `dtype` is not a floating-point dtype.
    """
    wanted = _floating(dtype)
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
        tensors = run_threaded(
            lambda: {name: _aligned(_converted(tensor, wanted)) for name, tensor in file.tensors.items()}
        )
        fit(model, tensors, where=str(path), assign=True)
    _attach(model, file.card)
    return model.eval()


def _floating(dtype: object) -> torch.dtype | None:
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if named is None and dtype is None:
        return None
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise WeightsError(
            f"dtype={dtype!r}: expected a floating-point dtype such as torch.float32 or 'bfloat16', or None for the "
            "file's own"
        )
    return named


def _converted(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)


def _aligned(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if its address is unaligned, because kernels may then differ in the last bits."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 or not tensor.is_floating_point() else tensor.clone()


def load_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor]) -> LoadReport:
    """Copy weights into a model, which keeps its dtype and device.

    An auxiliary classifier on one side only is reported and is not an error. If the number of classes differs, the last
    1x1 convolutions keep their initial values, with one warning. Another warning lists the options of the file (output
    stride, eps, ...) that differ from the model's and change what the tensors compute.

    Args:
        model: Model to fill, possibly inside a wrapper (compiled, DataParallel, averaged).
        source: `.safetensors` or plain `.pth` file, or a state dict, in torchvision's names. Prefixes and other parts
            that wrappers add to the names (`module.`, `_orig_mod.`, `model.`) are removed and reported.

    Returns:
        Report of the tensors that were loaded, ignored, or left at their initial values.

    Raises:
        WeightsError: If the weights do not fit. The message lists every difference, and the model is unchanged.
    """
    network = unwrap(model)
    if is_sharded(model):
        raise WeightsError(
            f"this {type(model).__name__} is sharded (FSDP), so no process holds all of its tensors. Load the weights "
            "before it is sharded."
        )
    module = without_inner_wrappers(network)
    found = unwrap_source(read_source(source), module.state_dict())
    warning = other_geometry(getattr(network, "config", None), found.config, found.where)
    try:
        report = fit(module, found.tensors, where=found.where)
    except WeightsError as error:
        hint = "" if isinstance(getattr(network, "config", None), ModelConfig) else hint_for(network)
        raise WeightsError(f"{error}\n{hint}" if hint else str(error)) from None
    report = replace(report, stripped=found.stripped, ignored=(*report.ignored, *found.outside))
    _attach(network, report.card_for(found.card))
    if warning:
        warn_caller(warning)
    return report


def _attach(model: Any, card: ModelCard | None) -> None:
    """Attach the card of the weights to the model; `save` and `export` pass it on."""
    model.card = card
