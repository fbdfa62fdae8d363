"""Options that no tensor shows: which of them a network has, and which other values would explain other results."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from segnets.card import JSON, ModelConfig
from segnets.errors import SegnetsError
from segnets.registry import BACKBONES, MODELS
from segnets.weights.geometry import options_beside
from weights_tools.check.outputs import measure, named
from weights_tools.check.peer import network_of

# The likelier ones first, each with the values that projects have.
_VALUES: dict[str, tuple[JSON, ...]] = {
    "output_stride": (8, 16, 32),
    "align_corners": (False, True),
    "first_block_dilation": ("previous", "same"),
    "atrous_rates": ([12, 24, 36], [6, 12, 18], [3, 6, 9]),
    "norm_eps": (1e-5, 1e-3),
    "head_norm_eps": (1e-5, 1e-3),
    "stride_in_1x1": (False, True),
    "basic_block_dilation": ("both", "first"),
    "multi_grid": (),
    "downsample": (),
    "replace_stride_with_dilation": (),
    "dilated": (False, True),
}
_SECONDS = 20.0  # spent on trying


def suspects(config: object) -> dict[str, JSON]:
    """The options of a network that no tensor shows, with their values here."""
    if not isinstance(config, ModelConfig):
        return {}
    if config.name in MODELS:
        options: Mapping[str, JSON] = MODELS[config.name].resolve(config.options)
    else:
        options = {**BACKBONES[config.name].geometry, **config.options}
    return {name: options[name] for name in _VALUES if options.get(name) is not None}


def explaining(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    images: Tensor,
    expected: Mapping[str, Tensor],
    tolerance: float,
    seconds: float = _SECONDS,
) -> dict[str, JSON]:
    """One or two options with which the same tensors give the expected results; {} if none was found in time.

    tensors: of the network, float32. images: (N, C, H, W); expected: results by name, of the shapes that it gives.
    """
    end = time.monotonic() + seconds
    size = (images.shape[2], images.shape[3])
    for changed in _changes(suspects(config)):
        if time.monotonic() > end:
            break
        try:
            model = network_of(_with(config, changed), tensors)
            with torch.inference_mode():
                got = named(model(images))
            own = {name: tensor for name, tensor in got.items() if name in expected}
            measured = measure(own, expected, size=size, whose="the source", tolerance=tolerance)
        except (SegnetsError, ValueError, RuntimeError):  # options that don't go together
            continue
        if all(each.holds for each in measured):
            return changed
    return {}


def _changes(here: Mapping[str, JSON]) -> Iterator[dict[str, JSON]]:
    """Every other value of every option, then of every two."""
    others = [(name, value) for name in here for value in _VALUES[name] if value != here[name]]
    yield from ({name: value} for name, value in others)
    for (one, first), (two, second) in itertools.combinations(others, 2):
        if one != two:
            yield {one: first, two: second}


def _with(config: ModelConfig, changed: Mapping[str, JSON]) -> ModelConfig:
    """The options with others; those that mean nothing beside them are left out.

    The rest stays, also where it is a default that another option would change with it: what differs from a network
    that was found to be wrong is to be exactly what is said.
    """
    if config.name not in MODELS:
        return ModelConfig(config.name, {**config.options, **changed})
    chosen = options_beside(config, changed, "the network")
    for name, value in suspects(config).items():
        if name not in chosen:
            with contextlib.suppress(ValueError):
                MODELS[config.name].resolve({**chosen, name: value})
                chosen[name] = value
    return ModelConfig(config.name, chosen)
