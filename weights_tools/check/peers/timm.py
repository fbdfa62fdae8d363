"""timm: its ResNets (also with the stems and shortcuts of ResNet-C and -D) and MobileNetV3s, as classifiers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from segnets.card import ModelConfig
from weights_tools.check.peers.base import Call, Choices, package, parts_of, without

# Ours -> timm's, where they are called otherwise.
NAMES = {"mobilenet_v3_large": "mobilenetv3_large_100", "mobilenet_v3_small": "mobilenetv3_small_100"}
_STRIDES = {(False, False, False): 32, (False, False, True): 16, (False, True, True): 8}


class Timm:
    """See `weights_tools.check.peers.base.Project`."""

    name = "timm"
    title = "timm"
    modules: tuple[str, ...] = ("timm",)
    distribution = "timm"
    install = "timm"

    def call(self, config: ModelConfig, names: Collection[str]) -> Call:  # noqa: ARG002  (every network has one set)
        head, backbone = parts_of(config.name)
        if head:
            raise without(self.title, config.name)
        options = Choices(self.title, config)
        arguments: dict[str, Any] = {"model_name": NAMES.get(backbone, backbone)}
        arguments["num_classes"] = options.take("num_classes", 1000)
        channels = options.take("in_channels", 3)
        if channels != 3:
            arguments["in_chans"] = channels
        if backbone.startswith("mobilenet"):
            self._mobilenet(options, arguments)
        else:
            self._resnet(options, arguments)
        return options.call("timm.create_model", arguments)

    def _mobilenet(self, options: Choices, arguments: dict[str, Any]) -> None:
        options.need_plain_norms()
        eps = options.take("norm_eps", 1e-3)  # ours without the option
        if eps != 1e-5:  # timm's without the argument
            arguments["bn_eps"] = eps

    def _resnet(self, options: Choices, arguments: dict[str, Any]) -> None:
        if options.take("norm_layer", "batch") == "group":
            arguments["norm_layer"] = "groupnorm"
        options.need("norm_eps", 1e-5)
        options.need("stride_in_1x1", False)
        options.need("first_block_dilation", "previous")
        options.need("basic_block_dilation", "both")
        if options.take("stem", "plain") == "deep":
            arguments.update(stem_type="deep", stem_width=32)
        dilate = tuple(options.take("replace_stride_with_dilation", ())) or (False, False, False)
        if dilate not in _STRIDES:
            raise options.refused("replace_stride_with_dilation")
        if _STRIDES[dilate] < 32:
            arguments["output_stride"] = _STRIDES[dilate]
            options.need("downsample", "conv", "average_dilated")
        if options.take("downsample", "conv") != "conv":
            arguments["avg_down"] = True

    def build(self, call: Call) -> nn.Module:
        module: nn.Module = package("timm").create_model(**call.arguments)
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        return {"logits": module(x)}

    def step(self, config: ModelConfig) -> int:  # noqa: ARG002  (the same for all)
        return 1
