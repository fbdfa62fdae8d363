"""transformers: its ResNet with a classifier."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from segnets.backbones import Bottleneck
from segnets.card import ModelConfig
from segnets.registry import BACKBONES
from weights_tools.check.peers.base import Call, Choices, package, parts_of, without

_WIDTHS = (64, 128, 256, 512)


class Transformers:
    """See `weights_tools.check.peers.base.Project`."""

    name = "transformers"
    title = "transformers"
    modules: tuple[str, ...] = ("transformers",)
    distribution = "transformers"
    install = "transformers"

    def call(self, config: ModelConfig, names: Collection[str]) -> Call:  # noqa: ARG002  (every network has one set)
        head, backbone = parts_of(config.name)
        kind: Any = BACKBONES[backbone]
        if head or not backbone.startswith("resnet"):
            raise without(self.title, config.name)
        options = Choices(self.title, config)
        deep = kind.block is Bottleneck
        arguments: dict[str, Any] = {
            "layer_type": "bottleneck" if deep else "basic",
            "depths": list(kind.depths),
            "hidden_sizes": [width * kind.block.expansion for width in _WIDTHS],
            "num_labels": options.take("num_classes", 1000),
            "num_channels": options.take("in_channels", 3),
            "downsample_in_bottleneck": options.take("stride_in_1x1", False),
        }
        options.need_plain_norms()
        options.need("norm_eps", 1e-5)
        options.need("stem", "plain")
        options.need("downsample", "conv")
        return options.call("transformers.ResNetConfig", arguments)

    def build(self, call: Call) -> nn.Module:
        transformers = package("transformers")
        config = transformers.ResNetConfig(**call.arguments)
        module: nn.Module = transformers.ResNetForImageClassification(config)
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        return {"logits": module(x).logits}

    def step(self, config: ModelConfig) -> int:  # noqa: ARG002  (the same for all)
        return 1
