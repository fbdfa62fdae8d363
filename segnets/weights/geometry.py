"""Compare options that the weights do not determine.

The same tensors also fit a network with a different output stride, eps or align_corners, but give different outputs
there. A strict load cannot detect this, so the options of a file are compared with those of the model that loads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.options import HIDDEN
from segnets.registry import BACKBONES, MODELS


def essential_options(config: ModelConfig, where: str = "the model") -> dict[str, JSON]:
    """Return the recorded options that differ from what the builder would choose without them.

    Args:
        config: Recorded network.
        where: Name of the file in messages.

    Raises:
        WeightsError: If the builder does not accept the recorded options.
    """
    builder = MODELS.get(config.name)
    if builder is None:
        return dict(config.options)
    kept = _resolved(config, where)
    for name, value in list(kept.items()):
        others = {other: kept[other] for other in kept if other != name}
        try:
            if builder.resolve(others).get(name) == value:
                kept = others
        except ValueError:  # another option needs this one
            continue
    return kept


def merge_options(config: ModelConfig, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Merge the options of a file with options that were given, which take precedence.

    Options of the file that would have no effect with the given ones are left out.

    Raises:
        WeightsError: If the builder does not accept the recorded options.
    """
    builder = MODELS[config.name]
    of_file = essential_options(config, where)
    try:
        builder.resolve({**of_file, **given})
        return {**of_file, **given}
    except ValueError:  # a mistake in the given options is reported when they are resolved
        chosen = dict(given)
    for name, value in of_file.items():
        try:
            builder.resolve({name: value, **chosen})
        except ValueError:  # the option has no effect with those chosen
            continue
        chosen.setdefault(name, value)
    return chosen


def describe(config: ModelConfig) -> str:
    """Return a short description for messages, such as `deeplabv3_resnet50(num_classes=5, output_stride=16)`."""
    shown = {key: config.options[key] for key in ("num_classes", "aux_loss") if key in config.options}
    try:
        shown.update(essential_options(config))
    except WeightsError:
        shown.update(config.options)
    return f"{config.name}({', '.join(f'{key}={value}' for key, value in shown.items())})"


def other_geometry(model: object, weights: ModelConfig | None, where: str) -> str:
    """Compare the hidden options of weights with those of the model that loads them.

    Args:
        model: ModelConfig of the model; anything else if it has none.
        weights: Network that the weights were made for, or None if unknown.
        where: Name of the weights in messages.

    Returns:
        Text of a warning, or an empty string if the model computes what the weights were made for.

    Raises:
        WeightsError: If the builder does not accept the options recorded with the weights.
    """
    if weights is None or not isinstance(model, ModelConfig):
        return ""
    of_weights, of_model = _compared(weights, model, where)
    other = []
    for name in {**of_weights, **of_model}:
        # An option that only one network has follows from its other options. Only multi_grid may be absent by default.
        if name not in HIDDEN or ((name not in of_weights or name not in of_model) and name != "multi_grid"):
            continue
        if of_weights.get(name) != of_model.get(name):
            other.append(f"{name}={of_weights.get(name)} (here {of_model.get(name)})")
    return f"{where} was made for {', '.join(other)}: the same tensors compute something else here" if other else ""


def _compared(weights: ModelConfig, model: ModelConfig, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of both networks that can be compared."""
    if weights.name in MODELS:
        of_weights = _resolved(weights, where)
        if weights.name != model.name:
            return {}, {}
        of_model = _resolved(model, "the model")
        if "aspp_norm_eps" in {**of_weights, **of_model}:  # without it, ASPP uses the head's eps
            for options in (of_weights, of_model):
                options.setdefault("aspp_norm_eps", options["head_norm_eps"])
        return of_weights, of_model
    backbone = BACKBONES.get(weights.name)
    if backbone is None:
        return {}, {}
    of_weights = {**backbone.geometry, **weights.options}
    if model.name == weights.name:
        return of_weights, {**backbone.geometry, **model.options}
    if model.name in MODELS and MODELS[model.name].backbone is backbone:
        resolved = _resolved(model, "the model")
        return of_weights, {name: resolved[name] for name in backbone.geometry if name in resolved}
    return {}, {}


def _resolved(config: ModelConfig, where: str) -> dict[str, Any]:
    try:
        return MODELS[config.name].resolve(config.options)
    except (ValueError, TypeError) as error:  # raised by builders for options that they reject
        raise WeightsError(f"{where}: the described {config.name} can't be built: {error}") from None
