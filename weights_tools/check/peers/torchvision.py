"""torchvision: its six segmentation networks, and its ResNets and MobileNetV3s as classifiers.

Each of the six has one geometry. So every option must have the value that torchvision's builder of that name has.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from segnets.builders import PUBLISHED
from segnets.card import ModelConfig
from weights_tools.check.peers.base import Call, Choices, package, parts_of, without

_SIX = {builder.name: builder for builder in PUBLISHED}


class Torchvision:
    """See `weights_tools.check.peers.base.Project`."""

    name = "torchvision"
    title = "torchvision"
    modules: tuple[str, ...] = ("torchvision",)
    distribution = "torchvision"
    install = "torchvision"

    def call(self, config: ModelConfig, names: Collection[str]) -> Call:  # noqa: ARG002  (every network has one set)
        head, backbone = parts_of(config.name)
        if head and config.name not in _SIX:
            raise without(self.title, config.name)
        options = Choices(self.title, config)
        arguments: dict[str, Any] = {"num_classes": options.take("num_classes", 1000)}
        if head:
            aux = options.take("aux_loss", False)
            if head != "lraspp":
                arguments["aux_loss"] = aux
            for name, own in _SIX[config.name].resolve({}).items():
                if not name.endswith("norm_layer"):
                    options.need(name, own)
            options.need_plain_norms()
            return options.call(f"torchvision.models.segmentation.{config.name}", arguments)
        options.need_plain_norms()
        options.need("in_channels", 3)
        if backbone.startswith("mobilenet"):
            options.need("norm_eps", 1e-3)
            chosen = {name: options.take(name) for name in ("dilated", "reduced_tail", "width_mult")}
        else:
            options.need("norm_eps", 1e-5)
            for name, own in _PLAIN_RESNET.items():
                options.need(name, own)
            chosen = {name: options.take(name) for name in ("replace_stride_with_dilation",)}
        arguments.update({name: value for name, value in chosen.items() if value is not None})
        return options.call(f"torchvision.models.{config.name}", arguments)

    def build(self, call: Call) -> nn.Module:
        models = package("segnets.torchvision_compat").torchvision.models
        name = call.function.rsplit(".", 1)[1]
        without_weights = {"weights": None, **({"weights_backbone": None} if name in _SIX else {})}
        module: nn.Module = models.get_model(name, **without_weights, **call.arguments)
        if call.arguments.get("num_classes") == 0:  # it has no such network itself, only this layer of no rows
            setattr(module, "classifier" if name.startswith("mobilenet") else "fc", nn.Identity())
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        results = module(x)
        return {"logits": results} if isinstance(results, Tensor) else dict(results)

    def step(self, config: ModelConfig) -> int:  # noqa: ARG002  (the same for all)
        return 1


_PLAIN_RESNET: dict[str, Any] = {
    "first_block_dilation": "previous",
    "basic_block_dilation": "both",
    "stem": "plain",
    "downsample": "conv",
    "stride_in_1x1": False,
}
