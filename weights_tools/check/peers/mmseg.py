"""mmsegmentation: EncoderDecoder with a ResNet and an FCN, DeepLabV3 or PSPNet head, with mmsegmentation's resizing.

The arguments are written as in mmsegmentation's config files, for easy comparison.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from segnets.card import ModelConfig
from weights_tools.check.peers._mmseg_import import mmseg_models
from weights_tools.check.peers.base import PeerCall, PendingOptions, head_and_backbone, no_such_network

_DEPTHS = {f"resnet{depth}": depth for depth in (18, 34, 50, 101, 152)}
_STRIDES: dict[int, dict[str, Any]] = {
    8: {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
    16: {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)},
    32: {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
}
_HEADS = {"fcn": "FCNHead", "deeplabv3": "ASPPHead", "pspnet": "PSPHead"}


class Mmseg:
    """mmsegmentation as a peer; see `Peer`."""

    name = "mmseg"
    title = "mmsegmentation"
    # ftfy and regex are undeclared requirements of mmsegmentation.
    modules: tuple[str, ...] = ("mmseg", "mmcv", "mmengine", "ftfy", "regex")
    distribution = "mmsegmentation"
    install = "mmsegmentation mmengine mmcv-lite ftfy regex"
    without_effect: tuple[str, ...] = ()

    def call(self, config: ModelConfig, names: Collection[str]) -> PeerCall:  # noqa: ARG002
        """Describe the call; see `Peer.call`."""
        head, backbone = head_and_backbone(config.name)
        if head not in _HEADS or backbone not in _DEPTHS:
            raise no_such_network(self.title, config.name)
        options = PendingOptions(self.title, config)
        options.require_batch_norms()
        options.require("pool_norm", True)
        options.require("aspp_separable", False)
        options.require("backbone_stages", 4)
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
        return options.into_call("mmseg.models.EncoderDecoder", arguments)

    def build(self, call: PeerCall) -> nn.Module:
        """Build the network; see `Peer.build`."""
        module: nn.Module = mmseg_models().segmentors.EncoderDecoder(**call.arguments)
        return module

    def run(self, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """Run the network; see `Peer.run`."""
        network: Any = module
        metas = [{"img_shape": tuple(x.shape[-2:])}] * len(x)
        results = {"out": network.encode_decode(x, metas)}
        if network.with_auxiliary_head:
            # mmsegmentation runs this head in training only, so EncoderDecoder has no method for it.
            features = network.extract_feat(x)
            results["aux"] = network.auxiliary_head.predict(features, metas, network.test_cfg)
        return results

    def size_multiple(self, config: ModelConfig) -> int:  # noqa: ARG002
        """Return 1: any size works."""
        return 1


def _backbone(options: PendingOptions, depth: int) -> dict[str, Any]:
    stem, downsample = options.take("stem"), options.take("downsample")
    if downsample not in ("conv", "average"):
        raise options.unsupported("downsample", "conv", "average")
    types = {("plain", "conv"): "ResNet", ("deep", "conv"): "ResNetV1c", ("deep", "average"): "ResNetV1d"}
    body: dict[str, Any] = {"type": types.get((stem, downsample), "ResNet"), "depth": depth}
    if (stem, downsample) not in types:
        body["avg_down"] = True
    channels = options.take("in_channels", 3)
    if channels != 3:
        body["in_channels"] = channels
    body.update(_STRIDES[options.take("output_stride")])
    body["contract_dilation"] = options.take("first_block_dilation", "previous") == "previous"
    body["style"] = "caffe" if options.take("stride_in_1x1", False) else "pytorch"
    body["norm_cfg"] = {"type": "BN", "eps": options.take("norm_eps")}
    options.require("basic_block_dilation", "first")
    grid = options.take("multi_grid")
    if grid is not None:
        body["multi_grid"] = tuple(grid)
    return body


def _head(options: PendingOptions, head: str) -> dict[str, Any]:
    """Return the arguments that only the decode head has."""
    own: dict[str, Any] = {"channels": options.take("head_channels")}
    if head == "fcn":
        two = options.take("head_variant") == "mmseg"
        return {**own, "num_convs": 2 if two else 1, "concat_input": two}
    options.require("head_variant", "mmseg")
    if head == "deeplabv3":
        own["dilations"] = (1, *options.take("atrous_rates"))
    return own
