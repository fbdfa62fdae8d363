"""mmsegmentation: its EncoderDecoder of a ResNet and an FCN, DeepLabV3 or PSPNet head, with its own resizing.

The arguments are what its configuration files write down, so that the two can be laid side by side.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from segnets.card import ModelConfig
from weights_tools.check.peers._mmseg_import import mmseg_models
from weights_tools.check.peers.base import Call, Choices, parts_of, without

_DEPTHS = {f"resnet{depth}": depth for depth in (18, 34, 50, 101, 152)}
_STRIDES: dict[int, dict[str, Any]] = {
    8: {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
    16: {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)},
    32: {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
}
_HEADS = {"fcn": "FCNHead", "deeplabv3": "ASPPHead", "pspnet": "PSPHead"}


class Mmseg:
    """See `weights_tools.check.peers.base.Project`."""

    name = "mmseg"
    title = "mmsegmentation"
    # It needs the last ones without saying so.
    modules: tuple[str, ...] = ("mmseg", "mmcv", "mmengine", "ftfy", "regex")
    distribution = "mmsegmentation"
    install = "mmsegmentation mmengine mmcv-lite ftfy regex"

    def call(self, config: ModelConfig, names: Collection[str]) -> Call:  # noqa: ARG002  (every network has one set)
        head, backbone = parts_of(config.name)
        if head not in _HEADS or backbone not in _DEPTHS:
            raise without(self.title, config.name)
        options = Choices(self.title, config)
        options.need_plain_norms()
        options.need("pool_norm", True)
        options.need("aspp_separable", False)
        options.need("backbone_stages", 4)
        common = {
            "num_classes": options.take("num_classes"),
            "align_corners": options.take("align_corners"),
            "norm_cfg": {"type": "BN", "eps": options.take("head_norm_eps")},
        }
        with_aux = options.take("aux_loss", False)
        body = _backbone(options, _DEPTHS[backbone])
        channels = 2048 if _DEPTHS[backbone] >= 50 else 512
        decode = {"type": _HEADS[head], "in_channels": channels, "in_index": 3, **_head(options, head), **common}
        auxiliary = {
            "type": "FCNHead",
            "in_channels": channels // 2,
            "in_index": 2,
            "channels": channels // 8,
            "num_convs": 1,
            "concat_input": False,
            **common,
        }
        arguments = {"backbone": body, "decode_head": decode, "auxiliary_head": auxiliary if with_aux else None}
        return options.call("mmseg.models.EncoderDecoder", arguments)

    def build(self, call: Call) -> nn.Module:
        module: nn.Module = mmseg_models().segmentors.EncoderDecoder(**call.arguments)
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        network: Any = module
        metas = [{"img_shape": tuple(x.shape[-2:])}] * len(x)
        results = {"out": network.encode_decode(x, metas)}
        if network.with_auxiliary_head:
            # It has no such call itself: in training alone it runs this head. The resizing is the head's own.
            features = network.extract_feat(x)
            results["aux"] = network.auxiliary_head.predict(features, metas, network.test_cfg)
        return results

    def step(self, config: ModelConfig) -> int:  # noqa: ARG002  (the same for all)
        return 1


def _backbone(options: Choices, depth: int) -> dict[str, Any]:
    stem, downsample = options.take("stem"), options.take("downsample")
    if downsample not in ("conv", "average"):
        raise options.refused("downsample", "conv", "average")
    kinds = {("plain", "conv"): "ResNet", ("deep", "conv"): "ResNetV1c", ("deep", "average"): "ResNetV1d"}
    body: dict[str, Any] = {"type": kinds.get((stem, downsample), "ResNet"), "depth": depth}
    if (stem, downsample) not in kinds:
        body["avg_down"] = True
    channels = options.take("in_channels", 3)
    if channels != 3:
        body["in_channels"] = channels
    body.update(_STRIDES[options.take("output_stride")])
    body["contract_dilation"] = options.take("first_block_dilation", "previous") == "previous"
    body["style"] = "caffe" if options.take("stride_in_1x1", False) else "pytorch"
    body["norm_cfg"] = {"type": "BN", "eps": options.take("norm_eps")}
    options.need("basic_block_dilation", "first")
    grid = options.take("multi_grid")
    if grid is not None:
        body["multi_grid"] = tuple(grid)
    return body


def _head(options: Choices, head: str) -> dict[str, Any]:
    """The arguments of the decode head alone."""
    own: dict[str, Any] = {"channels": options.take("head_channels")}
    if head == "fcn":
        two = options.take("head_variant") == "mmseg"
        return {**own, "num_convs": 2 if two else 1, "concat_input": two}
    options.need("head_variant", "mmseg")
    if head == "deeplabv3":
        own["dilations"] = (1, *options.take("atrous_rates"))
    return own
