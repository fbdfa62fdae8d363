"""Convolution, norm and activation in one module, and a depthwise separable convolution.

`ConvNormAct` behaves like torchvision.ops.Conv2dNormActivation; its parameters are named `0.weight` (convolution) and
`1.*` (norm). `SeparableConv` behaves like segmentation_models_pytorch's SeparableConv2d.
"""

from __future__ import annotations

from torch import nn

from segnets.layers.norm import NormLayer


class ConvNormAct(nn.Sequential):
    """2-D convolution without bias, followed by a norm and an activation.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)) for odd kernels: the padding is
    (kernel_size - 1) // 2 * dilation.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        kernel_size: Side of the square kernel in pixels.
        stride: Stride of the convolution.
        dilation: Dilation of the convolution.
        groups: Number of groups of the convolution.
        norm_layer: Factory that builds a norm layer for a given number of channels.
        activation: Class of the activation, applied in place, or None for no activation.
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
    """Depthwise 3x3 convolution followed directly by a 1x1 convolution, both without bias.

    (N, in_channels, H, W) -> (N, out_channels, H, W).

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        dilation: Dilation of the 3x3 convolution, which keeps the size.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )
