"""Inverted residual block of MobileNetV3, with squeeze-and-excitation.

Howard et al. 2019, "Searching for MobileNetV3", section 5, https://arxiv.org/abs/1905.02244
Hu et al. 2018, "Squeeze-and-Excitation Networks", https://arxiv.org/abs/1709.01507
Behaves like torchvision.models.mobilenetv3.InvertedResidual.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from segnets.layers.conv_norm_act import ConvNormAct
from segnets.layers.norm import NormLayer


def round_channels(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor`, but never down by more than 10 %, as the MobileNet papers do."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class InvertedResidualSpec:
    """Parameters of one inverted residual block, a row of table 1 or 2 of the MobileNetV3 paper.

    Attributes:
        in_channels: Number of input channels.
        kernel_size: Side of the depthwise kernel in pixels.
        expanded_channels: Channels after the expansion.
        out_channels: Number of output channels.
        squeeze_excitation: Whether the block has squeeze-and-excitation.
        activation: Activation after the expansion and the depthwise convolution.
        stride: The published stride, 1 or 2. Not applied if `stride_removed` or `dilation` > 1.
        dilation: Dilation of the depthwise convolution.
        stride_removed: Whether the block keeps the input's size despite its published stride.

    Raises:
        ValueError: If `stride` is neither 1 nor 2.
    """

    in_channels: int
    kernel_size: int
    expanded_channels: int
    out_channels: int
    squeeze_excitation: bool
    activation: Literal["relu", "hardswish"]
    stride: int
    dilation: int = 1
    stride_removed: bool = False

    def __post_init__(self) -> None:
        if self.stride not in (1, 2):
            raise ValueError(f"stride={self.stride}: an inverted residual has stride 1 or 2")


class SqueezeExcitation(nn.Module):
    """Gate that scales each channel by a function of all channel means: (N, C, H, W) -> (N, C, H, W).

    Args:
        channels: Number of input channels.
        squeeze_channels: Channels of the hidden 1x1 convolution.
    """

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels."""
        gate = self.fc1(self.avgpool(x))  # (N, squeeze_channels, 1, 1)
        gate = self.scale_activation(self.fc2(self.activation(gate)))  # (N, C, 1, 1)
        scaled: Tensor = gate * x
        return scaled


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, optional squeeze-and-excitation and 1x1 projection.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / s), ceil(W / s)), where s is the stride, or 1 if it is removed.
    The input is added if the published stride is 1 and the channels match.

    Args:
        spec: Parameters of the block.
        norm_layer: Factory that builds a norm layer for a given number of channels.
    """

    def __init__(self, spec: InvertedResidualSpec, norm_layer: NormLayer) -> None:
        super().__init__()
        self.has_residual = spec.stride == 1 and spec.in_channels == spec.out_channels
        activation = nn.Hardswish if spec.activation == "hardswish" else nn.ReLU
        width = spec.expanded_channels
        layers: list[nn.Module] = []
        if width != spec.in_channels:
            layers.append(
                ConvNormAct(spec.in_channels, width, kernel_size=1, norm_layer=norm_layer, activation=activation)
            )
        layers.append(
            ConvNormAct(
                width,
                width,
                kernel_size=spec.kernel_size,
                stride=1 if spec.dilation > 1 or spec.stride_removed else spec.stride,
                dilation=spec.dilation,
                groups=width,
                norm_layer=norm_layer,
                activation=activation,
            )
        )
        if spec.squeeze_excitation:
            layers.append(SqueezeExcitation(width, round_channels(width // 4)))
        layers.append(ConvNormAct(width, spec.out_channels, kernel_size=1, norm_layer=norm_layer, activation=None))
        self.block = nn.Sequential(*layers)
        self.out_channels = spec.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        result: Tensor = self.block(x)
        if self.has_residual:
            result += x
        return result
