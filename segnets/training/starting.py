"""Initial network of a run: built, loaded with starting weights, and given a card for the data's classes."""

from __future__ import annotations

import argparse
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import Colour, Decoding, ModelCard
from segnets.errors import TrainingError, WeightsError
from segnets.model import SegmentationModel
from segnets.preprocessing import Preprocessing
from segnets.resize_rules import parse_resize
from segnets.training.checkpoints import KIND
from segnets.training.class_names import listed
from segnets.training.config import TrainingConfig
from segnets.weights.actual import last_layers
from segnets.weights.geometry import merge_options
from segnets.weights.pretrained import create_model
from segnets.weights.sources import FoundWeights, read_source

_GREY_MEAN, _GREY_STD = 0.45, 0.225  # the averages over torchvision's three channels


def build_network(
    config: TrainingConfig,
    classes: Sequence[str],
    *,
    palette: Sequence[Colour] = (),
    channels: int = 3,
    tell: Callable[[str], None] = lambda _message: None,
) -> SegmentationModel:
    """Build the network of a run with its starting weights.

    If the weights have other classes, rows of the last convolutions are matched by class name. The initial values of
    all other rows depend on `config.seed` alone.

    Args:
        config: Network, weights and options.
        classes: Class names of the data, in the order of the ids.
        palette: One RGB colour per class, or empty.
        channels: Number of image channels.
        tell: Callback that receives messages about kept, remapped and newly initialised layers.

    Returns:
        The network in training mode on the CPU, with a card of the data's classes.

    Raises:
        TrainingError: If the network is unknown, or an option has no effect on it.
        WeightsError: If the weights are not found, can't be read or do not fit.
    """
    options: dict[str, Any] = {
        "num_classes": _outputs(config, classes),
        "aux_loss": config.aux_loss,
        "in_channels": channels,
    }
    if config.output_stride:
        options["output_stride"] = config.output_stride
    model, card = _filled(config, {**options, **_training_options(config)}, tuple(classes), tell)
    before = card.preprocessing.channels if card is not None else 3
    if before != channels and (card is not None or config.weights_backbone):
        tell(f"the starting weights are for {before} channels; the first convolution was adapted to {channels}")
    model.card = ModelCard(
        classes=tuple(classes),
        palette=tuple(palette),
        preprocessing=_preprocessing(config, card, channels),
        decoding=_decoding(config, card),
    )
    return _ready(model, config)


def describe_network(model: nn.Module) -> dict[str, Any]:
    """Describe a network for `rebuild_network`, as plain values for a checkpoint.

    Args:
        model: Network with a config and a card.
    """
    network: Any = model
    return {
        "options": dict(network.config.options),
        "preprocessing": network.card.preprocessing.to_json(),
        "decoding": None if network.card.decoding is None else network.card.decoding.to_json(),
    }


def rebuild_network(
    config: TrainingConfig, description: Mapping[str, Any], classes: Sequence[str], *, palette: Sequence[Colour] = ()
) -> SegmentationModel:
    """Build the network of a checkpoint, before its weights are loaded. Starting weights are not needed.

    Args:
        config: Configuration of the run.
        description: Result of `describe_network`.
        classes: Class names of the data.
        palette: One RGB colour per class, or empty.
    """
    model = create_model(config.model, **{**description["options"], **_training_options(config)})
    decoding = description["decoding"]
    model.card = ModelCard(
        classes=tuple(classes),
        palette=tuple(palette),
        preprocessing=Preprocessing.from_json(description["preprocessing"]),
        decoding=None if decoding is None else Decoding.from_json(decoding),
    )
    return _ready(model, config)


def _training_options(config: TrainingConfig) -> dict[str, Any]:
    """Return the network options that affect training only. Weights files do not store them."""
    options = {"norm_eval": config.norm_eval, "gradient_checkpointing": config.gradient_checkpointing}
    return {name: True for name, chosen in options.items() if chosen}


def _ready(model: SegmentationModel, config: TrainingConfig) -> SegmentationModel:
    if config.freeze_backbone:
        model.freeze_backbone()
    return model.train()


def _outputs(config: TrainingConfig, classes: Sequence[str]) -> int:
    if config.decoding != "threshold":
        return len(classes)
    if len(classes) != 2:
        raise TrainingError(
            f"decoding='threshold' needs two classes, the background first, but the data has {len(classes)}; "
            f"{'add the background' if len(classes) == 1 else 'remove the option'}"
        )
    return 1


def _decoding(config: TrainingConfig, card: ModelCard | None) -> Decoding | None:
    if card is not None and card.decoding is not None and card.decoding.rule == config.decoding:
        return card.decoding
    return None if config.decoding == "argmax" else Decoding(config.decoding)


def _preprocessing(config: TrainingConfig, card: ModelCard | None, channels: int) -> Preprocessing:
    """Return the preprocessing: normalisation of the starting weights, resize rule of the configuration."""
    known = card.preprocessing if card is not None else Preprocessing()
    if known.channels != channels:
        known = Preprocessing(mean=(_GREY_MEAN,) * channels, std=(_GREY_STD,) * channels)
    return replace(known, **parse_resize(config.resize))


def _filled(
    config: TrainingConfig, options: dict[str, Any], classes: tuple[str, ...], tell: Callable[[str], None]
) -> tuple[SegmentationModel, ModelCard | None]:
    """Build the network with its weights, and return it with the card of the weights."""
    if not config.weights:
        if not config.weights_backbone:
            tell("starting from random weights; to start from trained ones, pass --weights or --weights-backbone")
            return _build(config, options, tell), None
        return _build(config, options, tell, weights_backbone=config.weights_backbone), None
    if config.weights_backbone:
        raise TrainingError(
            "weights and weights_backbone are both given, but weights already includes a backbone; choose one"
        )
    found = _read(config)
    known = found.card.classes if found.card is not None else ()
    if known and known != classes:
        if found.config is not None:
            options = merge_options(found.config, options, found.where)
        tensors = _rows_by_name(found, config, options, classes, tell)
        return _build(config, options, tell, weights=tensors), found.card
    model = _build(config, options, tell, weights=config.weights if found.where == config.weights else found.tensors)
    if not _is_other_count(model, found):  # else a warning lists the newly initialised layers
        kept = "its classes are the data's, and are kept"
        taken = "has no class names, so its classes are assumed to be the data's"
        tell(f"{config.weights}: {kept if known else taken}")
    return model, found.card


def _build(
    config: TrainingConfig, options: Mapping[str, Any], tell: Callable[[str], None], **weights: Any
) -> SegmentationModel:
    """Build a network with initial values determined by the seed, and forward warnings as messages."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(config.seed)
        try:
            model = create_model(config.model, **options, **weights)
        except WeightsError:
            raise
        except (TypeError, ValueError) as error:
            raise TrainingError(str(error)) from None
    for warning in caught:
        tell(str(warning.message))
    return model


def _read(config: TrainingConfig) -> FoundWeights:
    """Read the starting weights, including those in a checkpoint of torchvision's reference script."""
    path = Path(config.weights)
    state = _checkpoint_weights(path) if path.is_file() and zipfile.is_zipfile(path) else None
    if state is not None:
        return FoundWeights(state, f"{path} (model)")
    return replace(read_source(config.weights, model=config.model), where=config.weights)


def _checkpoint_weights(path: Path) -> Mapping[str, Tensor] | None:
    """Return the weights in a checkpoint of torchvision's reference script or of segnets; None for other files."""
    try:
        # torchvision's script stores its arguments as an argparse.Namespace of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many exception types; `read_source` then reports the problem
        return None
    if not isinstance(content, dict):
        return None
    if content.get("kind") == KIND:
        raise TrainingError(
            f"{path}: is a checkpoint for --resume; to start from its weights, pass the .safetensors file in its folder"
        )
    model = content.get("model")
    return model if isinstance(model, Mapping) else None


def _rows_by_name(
    found: FoundWeights,
    config: TrainingConfig,
    options: Mapping[str, Any],
    classes: tuple[str, ...],
    tell: Callable[[str], None],
) -> dict[str, Tensor]:
    """Return weights whose last convolutions have one row per data class. New classes get initial values.

    The only row of a network with a sigmoid is that of the second of two classes. It has no use for a softmax.
    """
    assert found.card is not None
    known = found.card.classes
    if config.decoding == "threshold":
        known, classes = known[1:], classes[1:]
    network = _build(config, options, lambda _message: None)
    initial, tensors = network.state_dict(), dict(found.tensors)
    common = [name for name in classes if name in known]
    taken = False
    for layer in last_layers(network):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name not in tensors or name not in initial or len(tensors[name]) != len(known):
                continue
            rows = initial[name].clone()
            for each in common:
                rows[classes.index(each)] = tensors[name][known.index(each)]
            tensors[name] = rows
            taken = True
    if not taken:  # a warning lists the newly initialised layers
        return tensors
    new = [name for name in classes if name not in known]
    dropped = [name for name in known if name not in classes]
    parts = [f"{len(common)} of {len(classes)} classes are kept by name"]
    parts += [f"newly initialised: {listed(new)}"] if new else []
    parts += [f"not in the data: {listed(dropped)}"] if dropped else []
    tell(f"{config.weights}: {'; '.join(parts)}")
    return tensors


def _is_other_count(model: nn.Module, found: FoundWeights) -> bool:
    """Return whether the weights' last convolutions have a different number of rows from the network's."""
    own = model.state_dict()
    names = [f"{layer}.weight" for layer in last_layers(model)]
    return any(name in found.tensors and len(found.tensors[name]) != len(own[name]) for name in names)
