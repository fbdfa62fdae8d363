"""Head of DeepLabV3: atrous spatial pyramid pooling, a 3x3 convolution and a 1x1 classifier.

Chen et al. 2017, https://arxiv.org/abs/1706.05587. Behaves like torchvision.models.segmentation.deeplabv3.DeepLabHead
or, with `variant="mmseg"`, like mmsegmentation's ASPPHead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from segnets.card import JSON
from segnets.heads._aspp import aspp_arguments, aspp_defaults
from segnets.heads.spec import HeadInput, HeadSpec, check_variant
from segnets.layers import ASPP, NormLayer

_VARIANTS = ("torchvision", "mmseg")


class DeepLabHead(nn.Sequential):
    """Head of DeepLabV3: (N, in_channels, H, W) -> logits (N, num_classes, H, W).

    Args:
        in_channels: Number of channels in the feature map.
        num_classes: Number of classes.
        atrous_rates: Dilations of ASPP. The default is the paper's for output stride 8; torchvision also uses it for
            MobileNetV3 at output stride 16.
        channels: Channels of ASPP and of the 3x3 convolution.
        separable: Whether ASPP uses depthwise separable convolutions.
        pool_norm: Whether ASPP's pooling branch has a norm.
        dropout: Dropout probability in ASPP.
        norm_layer: Factory that builds a norm layer for a given number of channels.
        aspp_norm_layer: Factory of ASPP's norms; None means `norm_layer`.
        variant: "torchvision"; or "mmseg", where ASPP concatenates its pooling branch first and fuses with a 3x3
            convolution, the classifier follows directly, and dropout drops whole channels.

    Raises:
        ValueError: If `variant` is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        atrous_rates: Sequence[int] = (12, 24, 36),
        *,
        channels: int = 256,
        separable: bool = False,
        pool_norm: bool = True,
        dropout: float = 0.5,
        norm_layer: NormLayer = nn.BatchNorm2d,
        aspp_norm_layer: NormLayer | None = None,
        variant: str = "torchvision",
    ) -> None:
        check_variant(variant, _VARIANTS)
        mmseg = variant == "mmseg"
        aspp = ASPP(
            in_channels,
            atrous_rates,
            channels,
            separable=separable,
            pool_norm=pool_norm,
            norm_layer=aspp_norm_layer or norm_layer,
            fuse_kernel=3 if mmseg else 1,
            pool_first=mmseg,
            dropout=nn.Dropout2d(dropout) if mmseg else nn.Dropout(dropout),
        )
        if mmseg:
            super().__init__(aspp, nn.Conv2d(channels, num_classes, 1))
        else:
            super().__init__(
                aspp,
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                norm_layer(channels),
                nn.ReLU(),
                nn.Conv2d(channels, num_classes, 1),
            )
        self.last_layers = (str(len(self) - 1),)


def _defaults(variant: str, head_input: HeadInput) -> dict[str, JSON]:
    mmseg = variant == "mmseg"
    return {
        "head_channels": head_input.channels // 4 if mmseg else 256,  # 512 on ResNet-50, 128 on ResNet-18
        "head_dropout": 0.1 if mmseg else 0.5,
        **aspp_defaults(head_input.output_stride, separable=False),
    }


def _build(num_classes: int, head_input: HeadInput, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
    return DeepLabHead(
        head_input.channels,
        num_classes,
        options["atrous_rates"],
        norm_layer=norm_layer,
        variant=options["head_variant"],
        **aspp_arguments(options, norm_layer),
    )


DEEPLABV3 = HeadSpec("deeplabv3", "DeepLabV3, https://arxiv.org/abs/1706.05587", _VARIANTS, _defaults, _build)
