"""The part of a network that no tensor shows: the same weights compute something else under other options.

A strict load proves nothing about it, so the options of a file are compared with those of the model that reads it.
"""

from __future__ import annotations

from typing import Any

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError, warn_caller
from segnets.registry import BACKBONES, MODELS

# These show in the tensors, are reported when they differ, or change nothing in eval mode.
_HARMLESS = {"num_classes", "aux_loss", "in_channels", "head_dropout", "norm_layer", "head_norm_layer"}
# Of a classifier, what its features compute.
_OF_FEATURES = {"downsample": "conv", "stride_in_1x1": False, "norm_eps": 1e-5}


def essential_options(config: ModelConfig) -> dict[str, JSON]:
    """The options of a recorded network that are not what its builder would settle on without them.

    Raises WeightsError if the recorded options are none that the builder has.
    """
    builder = MODELS.get(config.name)
    if builder is None:
        return dict(config.options)
    kept = _settled(config)
    for name, value in list(kept.items()):
        others = {other: kept[other] for other in kept if other != name}
        try:
            if builder.settle(others).get(name) == value:
                kept = others
        except ValueError:  # another option needs this one
            continue
    return kept


def describe(config: ModelConfig) -> str:
    """A network in few words, `deeplabv3_resnet50(num_classes=5, output_stride=16)`, for messages."""
    shown = {key: config.options[key] for key in ("num_classes", "aux_loss") if key in config.options}
    try:
        shown.update(essential_options(config))
    except WeightsError:
        shown.update(config.options)
    return f"{config.name}({', '.join(f'{key}={value}' for key, value in shown.items())})"


def warn_of_other_geometry(model: object, weights: ModelConfig | None, where: str) -> None:
    """Warn (UserWarning, once) if the weights were made for options under which they compute something else.

    model: the ModelConfig of the model that reads them, or anything else if it has none.
    """
    if weights is None or not isinstance(model, ModelConfig) or model.name not in MODELS:
        return
    asked = _settled(model)
    if weights.name in BACKBONES:
        made: dict[str, Any] = {**_OF_FEATURES, **weights.options}
        names = [name for name in _OF_FEATURES if name in asked]
        if weights.name.startswith("mobilenet"):
            names = []  # its classifier has no such options
    elif weights.name == model.name:
        made = _settled(weights)
        names = [name for name in {**made, **asked} if name not in _HARMLESS]
    else:
        return
    other = [f"{name}={made.get(name)} (here {asked.get(name)})" for name in names if made.get(name) != asked.get(name)]
    if other:
        warn_caller(f"{where} was made for {', '.join(other)}: the same tensors compute something else here")


def _settled(config: ModelConfig) -> dict[str, Any]:
    try:
        return MODELS[config.name].settle(config.options)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise WeightsError(f"its description of {config.name} can't be built: {error}") from None
