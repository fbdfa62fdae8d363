"""Match the backbone of a segnets network as a classifier without its last layers."""

from __future__ import annotations

from segnets.card import ModelConfig
from segnets.errors import WeightsError
from segnets.options import DEFAULTS, OPTIONS
from segnets.registry import BACKBONES, MODELS
from weights_tools.recognise.layouts.base import Match, Tensors

BACKBONE = "backbone."
# Options that a backbone's file records if they differ from the defaults.
_RECORDED = tuple(option.name for option in OPTIONS if option.in_backbone_file)


def add_backbone_prefix(name: str, network: str) -> str:
    """Add "backbone." to a tensor's name if `network` is a classifier and the tensor belongs to its features."""
    features = "" if network in MODELS else BACKBONES[network].features_prefix
    if network in MODELS or name.startswith(("fc.", "classifier.")) or not name.startswith(features):
        return name
    return BACKBONE + name.removeprefix(features)


def strip_backbone_prefix(name: str, network: str) -> str:
    """Return the name that the classifier `network` has for a tensor; the inverse of `add_backbone_prefix`."""
    return BACKBONES[network].features_prefix + name.removeprefix(BACKBONE) if name.startswith(BACKBONE) else name


def match_own_backbone(config: ModelConfig, tensors: Tensors) -> Match:
    """Match the backbone of the network described in a segnets file.

    Raises:
        WeightsError: If the network does not use all stages of its backbone, so its weights fit no classifier.
    """
    network = MODELS[config.name].backbone.name if config.name in MODELS else config.name
    stages = config.options.get("backbone_stages", 4)
    if stages != 4:
        raise WeightsError(f"the backbone has only {stages} stages of a {network}; a classifier needs all 4")
    defaults = {**DEFAULTS, **BACKBONES[network].geometry}
    options = {
        name: value for name, value in config.options.items() if name in _RECORDED and value != defaults.get(name)
    }
    names = {}
    for name in tensors:
        common = add_backbone_prefix(name, config.name)
        if common.startswith(BACKBONE):
            names[strip_backbone_prefix(common, network)] = name
    unused = tuple(name for name in tensors if name not in names.values())
    return Match("segnets", 1, ModelConfig(network, {"num_classes": 0, **options}), names, {}, unused=unused)
