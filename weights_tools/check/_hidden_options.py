"""Find option values that could explain a mismatch but are not visible in the weights."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from segnets.card import JSON, ModelConfig
from segnets.errors import SegnetsError
from segnets.options import ALL_OPTIONS
from segnets.registry import BACKBONES, MODELS
from segnets.weights.geometry import merge_options
from weights_tools.check.network import build_network
from weights_tools.check.outputs import compare_outputs, outputs_by_name

# Hidden options and the values that projects use, most likely mistakes first.
_VALUES: dict[str, tuple[JSON, ...]] = {
    option.name: option.candidates
    for option in sorted(ALL_OPTIONS, key=lambda option: option.search_rank)
    if option.is_hidden
}
_SECONDS = 20.0  # time limit of the search


def hidden_options(config: object) -> dict[str, JSON]:
    """Return the options of a network that the weights do not show, with their values in `config`."""
    if not isinstance(config, ModelConfig):
        return {}
    if config.name in MODELS:
        options: Mapping[str, JSON] = MODELS[config.name].resolve(config.options)
    else:
        options = {**BACKBONES[config.name].geometry, **config.options}
    return {name: options[name] for name in _VALUES if options.get(name) is not None}


def find_explanation(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    images: Tensor,
    expected: Mapping[str, Tensor],
    tolerance: float,
    seconds: float = _SECONDS,
) -> dict[str, JSON]:
    """Find one or two option changes that make the same tensors give the expected outputs.

    Args:
        config: The network whose outputs differ.
        tensors: The network's tensors, float32.
        images: Batch of shape (N, C, H, W).
        expected: Expected outputs by name, with the shapes of the network's outputs.
        tolerance: Tolerance for `compare_outputs`.
        seconds: Time limit.

    Returns:
        The options and their values; empty if none was found in time.
    """
    end = time.monotonic() + seconds
    size = (images.shape[2], images.shape[3])
    for changed in _candidates(hidden_options(config)):
        if time.monotonic() > end:
            break
        try:
            model = build_network(_with_options(config, changed), tensors)
            with torch.inference_mode():
                got = outputs_by_name(model(images))
            own = {name: tensor for name, tensor in got.items() if name in expected}
            compared = compare_outputs(own, expected, size=size, source="the source", tolerance=tolerance)
        except (SegnetsError, ValueError, RuntimeError):  # mutually exclusive options
            continue
        if all(each.holds for each in compared):
            return changed
    return {}


def _candidates(current: Mapping[str, JSON]) -> Iterator[dict[str, JSON]]:
    """Yield every other value of each option, then of each pair of options."""
    others = [(name, value) for name in current for value in _VALUES[name] if value != current[name]]
    yield from ({name: value} for name, value in others)
    for (one, first), (two, second) in itertools.combinations(others, 2):
        if one != two:
            yield {one: first, two: second}


def _with_options(config: ModelConfig, changed: Mapping[str, JSON]) -> ModelConfig:
    """Return the config with some options changed, and without those that no longer apply.

    All others keep their values, even defaults that depend on a changed option: the explanation must name everything
    that differs.
    """
    if config.name not in MODELS:
        return ModelConfig(config.name, {**config.options, **changed})
    chosen = merge_options(config, changed, "the network")
    for name, value in hidden_options(config).items():
        if name not in chosen:
            with contextlib.suppress(ValueError):
                MODELS[config.name].resolve({**chosen, name: value})
                chosen[name] = value
    return ModelConfig(config.name, chosen)
