"""The inverted residual block of MobileNetV3, with its squeeze-and-excitation.

Howard et al. 2019, "Searching for MobileNetV3", section 5, https://arxiv.org/abs/1905.02244
Hu et al. 2018, "Squeeze-and-Excitation Networks", https://arxiv.org/abs/1709.01507
Behaves as torchvision.models.mobilenetv3.InvertedResidual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from segnets.layers.conv_norm_act import ConvNormAct
from segnets.layers.norm import NormLayer


def round_channels(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor`, never more than 10 % down (the rule of the MobileNet papers)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclass(frozen=True)
class InvertedResidualSpec:
    """One row of tables 1 and 2 of the MobileNetV3 paper, widths final.

    stride is the published one; with stride_removed, or a dilation above 1 of the depthwise convolution, the block
    keeps the size all the same.
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
    """Scale every channel by a gate computed from the means of all channels. (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc1(self.avgpool(x))  # (N, squeeze_channels, 1, 1)
        gate = self.scale_activation(self.fc2(self.activation(gate)))  # (N, C, 1, 1)
        scaled: Tensor = gate * x
        return scaled


class InvertedResidual(nn.Module):
    """Expand with 1x1, filter each channel, squeeze and excite, project with 1x1; add the input if it fits.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / s), ceil(W / s)), where s is 1 if the stride is removed.
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
        result: Tensor = self.block(x)
        if self.has_residual:
            result += x
        return result
