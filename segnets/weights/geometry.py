"""The part of a network that no tensor shows: the same weights compute something else under other options.

A strict load proves nothing about it, so the options of a file are compared with those of the model that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.options import HIDDEN
from segnets.registry import BACKBONES, MODELS


def essential_options(config: ModelConfig, where: str = "the model") -> dict[str, JSON]:
    """The options of a recorded network that are not what its builder would settle on without them.

    Raises WeightsError, which names `where`, if the recorded options are none that the builder has.
    """
    builder = MODELS.get(config.name)
    if builder is None:
        return dict(config.options)
    kept = _settled(config, where)
    for name, value in list(kept.items()):
        others = {other: kept[other] for other in kept if other != name}
        try:
            if builder.resolve(others).get(name) == value:
                kept = others
        except ValueError:  # another option needs this one
            continue
    return kept


def options_beside(config: ModelConfig, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a file together with those that were given, which win.

    Options of the file that mean nothing beside them are left out. Raises WeightsError as `essential_options`.
    """
    builder = MODELS[config.name]
    of_file = essential_options(config, where)
    try:
        builder.resolve({**of_file, **given})
        return {**of_file, **given}
    except ValueError:  # a mistake in those given comes again when they settle
        chosen = dict(given)
    for name, value in of_file.items():
        try:
            builder.resolve({name: value, **chosen})
        except ValueError:  # as above
            continue
        chosen.setdefault(name, value)
    return chosen


def describe(config: ModelConfig) -> str:
    """A network in few words, `deeplabv3_resnet50(num_classes=5, output_stride=16)`, for messages."""
    shown = {key: config.options[key] for key in ("num_classes", "aux_loss") if key in config.options}
    try:
        shown.update(essential_options(config))
    except WeightsError:
        shown.update(config.options)
    return f"{config.name}({', '.join(f'{key}={value}' for key, value in shown.items())})"


def other_geometry(model: object, weights: ModelConfig | None, where: str) -> str:
    """What to warn of if the weights were made for options under which they compute something else; "" if not.

    model: the ModelConfig of the model that reads them, or anything else if it has none.
    Raises WeightsError for a description of the weights that can't be built.
    """
    if weights is None or not isinstance(model, ModelConfig):
        return ""
    made, asked = _compared(weights, model, where)
    other = []
    for name in {**made, **asked}:
        # What one of them does not have at all follows from the others; only multi_grid is nothing by default.
        if name not in HIDDEN or ((name not in made or name not in asked) and name != "multi_grid"):
            continue
        if made.get(name) != asked.get(name):
            other.append(f"{name}={made.get(name)} (here {asked.get(name)})")
    return f"{where} was made for {', '.join(other)}: the same tensors compute something else here" if other else ""


def _compared(weights: ModelConfig, model: ModelConfig, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of both that can be compared."""
    if weights.name in MODELS:
        made = _settled(weights, where)
        if weights.name != model.name:
            return {}, {}
        asked = _settled(model, "the model")
        if "aspp_norm_eps" in {**made, **asked}:  # where only one of them has it, the other's is the whole head's
            for options in (made, asked):
                options.setdefault("aspp_norm_eps", options["head_norm_eps"])
        return made, asked
    kind = BACKBONES.get(weights.name)
    if kind is None:
        return {}, {}
    made = {**kind.geometry, **weights.options}
    if model.name == weights.name:
        return made, {**kind.geometry, **model.options}
    if model.name in MODELS and MODELS[model.name].backbone is kind:
        settled = _settled(model, "the model")
        return made, {name: settled[name] for name in kind.geometry if name in settled}
    return {}, {}


def _settled(config: ModelConfig, where: str) -> dict[str, Any]:
    try:
        return MODELS[config.name].resolve(config.options)
    except (ValueError, TypeError) as error:  # what builders raise for options they can't take
        raise WeightsError(f"{where}: its description of {config.name} can't be built: {error}") from None
