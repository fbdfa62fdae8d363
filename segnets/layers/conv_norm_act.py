"""Convolution, normalisation, activation: the brick that most of these networks are built of.

Behaves as torchvision.ops.Conv2dNormActivation; the parameters are named `0.weight` (convolution) and `1.*` (norm).
"""

from __future__ import annotations

from torch import nn

from segnets.layers.norm import NormLayer


class ConvNormAct(nn.Sequential):
    """2-d convolution without bias, then `norm_layer`, then `activation` (in place), which may be None.

    The padding keeps the size at stride 1 for odd kernels: (kernel_size - 1) // 2 * dilation.
    Input (N, in_channels, H, W); output (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm_layer: NormLayer = nn.BatchNorm2d,
        activation: type[nn.ReLU] | type[nn.Hardswish] | None = nn.ReLU,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding=(kernel_size - 1) // 2 * dilation,
                dilation=dilation,
                groups=groups,
                bias=False,
            ),
            norm_layer(out_channels),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)
        self.out_channels = out_channels


class SeparableConv(nn.Sequential):
    """A 3x3 convolution in two: each channel by itself, then a 1x1 across channels; no bias, nothing between.

    Behaves as segmentation_models_pytorch's SeparableConv2d. (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )
