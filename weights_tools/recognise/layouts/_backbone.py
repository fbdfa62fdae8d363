"""The backbone of a network of ours, as a file of its own: a classifier without its last layers."""

from __future__ import annotations

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.registry import BACKBONES, MODELS
from weights_tools.recognise.layouts.base import Match, Tensors

BACKBONE = "backbone."
# Options that a classifier records too, where they are not its defaults.
_OF_FEATURES = ("in_channels", "stem", "downsample", "stride_in_1x1", "norm_layer", "norm_eps")
_DEFAULTS: dict[str, JSON] = {"in_channels": 3, "stem": "plain", "norm_layer": "batch"}


def with_backbone(name: str, network: str) -> str:
    """The name of a tensor of ours as layouts have it: with "backbone." before the features, in a classifier too."""
    features = "" if network in MODELS else BACKBONES[network].features_prefix
    if network in MODELS or name.startswith(("fc.", "classifier.")) or not name.startswith(features):
        return name
    return BACKBONE + name.removeprefix(features)


def without_backbone(name: str, network: str) -> str:
    """The way back: what the classifier `network` calls it."""
    return BACKBONES[network].features_prefix + name.removeprefix(BACKBONE) if name.startswith(BACKBONE) else name


def match_own_backbone(config: ModelConfig, tensors: Tensors) -> Match:
    """The features of a network that a file of segnets describes.

    Raises WeightsError if the backbone does not use all of its stages, for then it is no classifier's.
    """
    network = MODELS[config.name].backbone.name if config.name in MODELS else config.name
    if config.options.get("backbone_stages", 4) != 4:
        raise WeightsError(f"its backbone has {config.options['backbone_stages']} of the stages of a {network} only")
    kind = {**_DEFAULTS, **BACKBONES[network].geometry}
    options = {
        name: value for name, value in config.options.items() if name in _OF_FEATURES and value != kind.get(name)
    }
    names = {}
    for name in tensors:
        common = with_backbone(name, config.name)
        if common.startswith(BACKBONE):
            names[without_backbone(common, network)] = name
    unused = tuple(name for name in tensors if name not in names.values())
    return Match("segnets", 1, ModelConfig(network, {"num_classes": 0, **options}), names, {}, unused=unused)
