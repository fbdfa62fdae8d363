"""timm: ResNets (also with the stems and shortcuts of ResNet-C and -D) and MobileNetV3s, as classifiers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from segnets.card import ModelConfig
from weights_tools.check.peers.base import PeerCall, PendingOptions, head_and_backbone, import_untyped, no_such_network

# Our name -> timm's, if they differ.
NAMES = {"mobilenet_v3_large": "mobilenetv3_large_100", "mobilenet_v3_small": "mobilenetv3_small_100"}
_STRIDES = {(False, False, False): 32, (False, False, True): 16, (False, True, True): 8}


class Timm:
    """timm as a peer; see `Peer`."""

    name = "timm"
    title = "timm"
    modules: tuple[str, ...] = ("timm",)
    distribution = "timm"
    install = "timm"
    without_effect: tuple[str, ...] = ()

    def call(self, config: ModelConfig, names: Collection[str]) -> PeerCall:  # noqa: ARG002
        """Describe the call; see `Peer.call`."""
        head, backbone = head_and_backbone(config.name)
        if head:
            raise no_such_network(self.title, config.name)
        options = PendingOptions(self.title, config)
        arguments: dict[str, Any] = {"model_name": NAMES.get(backbone, backbone)}
        arguments["num_classes"] = options.take("num_classes", 1000)
        channels = options.take("in_channels", 3)
        if channels != 3:
            arguments["in_chans"] = channels
        if backbone.startswith("mobilenet"):
            self._mobilenet(options, arguments)
        else:
            self._resnet(options, arguments)
        return options.into_call("timm.create_model", arguments)

    def _mobilenet(self, options: PendingOptions, arguments: dict[str, Any]) -> None:
        options.require_batch_norms()
        eps = options.take("norm_eps", 1e-3)  # our default
        if eps != 1e-5:  # timm's default
            arguments["bn_eps"] = eps

    def _resnet(self, options: PendingOptions, arguments: dict[str, Any]) -> None:
        if options.take("norm_layer", "batch") == "group":
            arguments["norm_layer"] = "groupnorm"
        options.require("norm_eps", 1e-5)
        options.require("stride_in_1x1", False)
        options.require("first_block_dilation", "previous")
        options.require("basic_block_dilation", "both")
        if options.take("stem", "plain") == "deep":
            arguments.update(stem_type="deep", stem_width=32)
        dilate = tuple(options.take("replace_stride_with_dilation", ())) or (False, False, False)
        if dilate not in _STRIDES:
            raise options.unsupported("replace_stride_with_dilation")
        if _STRIDES[dilate] < 32:
            arguments["output_stride"] = _STRIDES[dilate]
            options.require("downsample", "conv", "average_dilated")
        if options.take("downsample", "conv") != "conv":
            arguments["avg_down"] = True

    def build(self, call: PeerCall) -> nn.Module:
        """Build the network; see `Peer.build`."""
        module: nn.Module = import_untyped("timm").create_model(**call.arguments)
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Run the network; see `Peer.run`."""
        return {"logits": module(x)}

    def size_multiple(self, config: ModelConfig) -> int:  # noqa: ARG002
        """Return 1: any size works."""
        return 1
