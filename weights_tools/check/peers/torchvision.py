"""torchvision: the six segmentation networks, and ResNets and MobileNetV3s as classifiers.

The six have a fixed geometry, so every option must have the value from torchvision's builder.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from segnets.builders import PUBLISHED
from segnets.card import ModelConfig
from weights_tools.check.peers.base import PeerCall, PendingOptions, head_and_backbone, no_such_network

_SIX = {builder.name: builder for builder in PUBLISHED}


class Torchvision:
    """torchvision as a peer; see `Peer`."""

    name = "torchvision"
    title = "torchvision"
    modules: tuple[str, ...] = ("torchvision",)
    distribution = "torchvision"
    install = "torchvision"
    without_effect: tuple[str, ...] = ()

    def call(self, config: ModelConfig, names: Collection[str]) -> PeerCall:  # noqa: ARG002
        """Describe the call; see `Peer.call`."""
        head, backbone = head_and_backbone(config.name)
        if head and config.name not in _SIX:
            raise no_such_network(self.title, config.name)
        options = PendingOptions(self.title, config)
        arguments: dict[str, Any] = {"num_classes": options.take("num_classes", 1000)}
        if head:
            aux = options.take("aux_loss", False)
            if head != "lraspp":
                arguments["aux_loss"] = aux
            for name, own in _SIX[config.name].resolve({}).items():
                if not name.endswith("norm_layer"):
                    options.require(name, own)
            options.require_batch_norms()
            return options.into_call(f"torchvision.models.segmentation.{config.name}", arguments)
        options.require_batch_norms()
        options.require("in_channels", 3)
        if backbone.startswith("mobilenet"):
            options.require("norm_eps", 1e-3)
            chosen = {name: options.take(name) for name in ("dilated", "reduced_tail", "width_mult")}
        else:
            options.require("norm_eps", 1e-5)
            for name, own in _PLAIN_RESNET.items():
                options.require(name, own)
            chosen = {name: options.take(name) for name in ("replace_stride_with_dilation",)}
        arguments.update({name: value for name, value in chosen.items() if value is not None})
        return options.into_call(f"torchvision.models.{config.name}", arguments)

    def build(self, call: PeerCall) -> nn.Module:
        """Build the network; see `Peer.build`."""
        from segnets.torchvision_compat import torchvision

        models: Any = torchvision.models
        name = call.function.rsplit(".", 1)[1]
        without_weights = {"weights": None, **({"weights_backbone": None} if name in _SIX else {})}
        module: nn.Module = models.get_model(name, **without_weights, **call.arguments)
        if call.arguments.get("num_classes") == 0:  # with num_classes=0, torchvision builds a layer without rows
            setattr(module, "classifier" if name.startswith("mobilenet") else "fc", nn.Identity())
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Run the network; see `Peer.run`."""
        results = module(x)
        return {"logits": results} if isinstance(results, Tensor) else dict(results)

    def size_multiple(self, config: ModelConfig) -> int:  # noqa: ARG002
        """Return 1: any size works."""
        return 1


_PLAIN_RESNET: dict[str, Any] = {
    "first_block_dilation": "previous",
    "basic_block_dilation": "both",
    "stem": "plain",
    "downsample": "conv",
    "stride_in_1x1": False,
}
