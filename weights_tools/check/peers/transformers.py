"""transformers: ResNet with a classifier."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from segnets.backbones import Bottleneck
from segnets.card import ModelConfig
from segnets.registry import BACKBONES
from weights_tools.check.peers.base import PeerCall, PendingOptions, head_and_backbone, import_untyped, no_such_network

_WIDTHS = (64, 128, 256, 512)


class Transformers:
    """transformers as a peer; see `Peer`."""

    name = "transformers"
    title = "transformers"
    modules: tuple[str, ...] = ("transformers",)
    distribution = "transformers"
    install = "transformers"
    without_effect: tuple[str, ...] = ()

    def call(self, config: ModelConfig, names: Collection[str]) -> PeerCall:  # noqa: ARG002
        """Describe the call; see `Peer.call`."""
        head, backbone = head_and_backbone(config.name)
        description: Any = BACKBONES[backbone]
        if head or not backbone.startswith("resnet"):
            raise no_such_network(self.title, config.name)
        options = PendingOptions(self.title, config)
        deep = description.block is Bottleneck
        arguments: dict[str, Any] = {
            "layer_type": "bottleneck" if deep else "basic",
            "depths": list(description.depths),
            "hidden_sizes": [width * description.block.expansion for width in _WIDTHS],
            "num_labels": options.take("num_classes", 1000),
            "num_channels": options.take("in_channels", 3),
            "downsample_in_bottleneck": options.take("stride_in_1x1", False),
        }
        options.require_batch_norms()
        options.require("norm_eps", 1e-5)
        options.require("stem", "plain")
        options.require("downsample", "conv")
        return options.into_call("transformers.ResNetConfig", arguments)

    def build(self, call: PeerCall) -> nn.Module:
        """Build the network; see `Peer.build`."""
        transformers = import_untyped("transformers")
        config = transformers.ResNetConfig(**call.arguments)
        module: nn.Module = transformers.ResNetForImageClassification(config)
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Run the network; see `Peer.run`."""
        return {"logits": module(x).logits}

    def size_multiple(self, config: ModelConfig) -> int:  # noqa: ARG002
        """Return 1: any size works."""
        return 1
