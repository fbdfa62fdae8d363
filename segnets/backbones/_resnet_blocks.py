"""Parts of a ResNet: the two residual blocks, their shortcuts, and the first convolution.

He et al. 2015, https://arxiv.org/abs/1512.03385
He et al. 2018, "Bag of Tricks", https://arxiv.org/abs/1812.01187
The defaults behave like torchvision.models.resnet, where the stride is in the 3x3 convolution ("v1.5"). The deep stem
("C", v1c) and average pooling in the shortcuts ("D", v1d) follow timm and mmsegmentation.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from segnets.layers import ConvNormAct, NormLayer


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False
    )


def _conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions, for ResNet-18 and -34.

    (N, inplanes, H, W) -> (N, planes, ceil(H / stride), ceil(W / stride)).

    Args:
        inplanes: Number of input channels.
        planes: Number of output channels.
        stride: Stride of the first convolution.
        downsample: Shortcut that matches the input to the output's shape, or None for the identity.
        groups: Must be 1.
        base_width: Must be 64.
        dilation: Dilation of the first convolution, and of the second one unless `second_dilation` is given.
        norm_layer: Factory that builds a norm layer for a given number of channels.
        second_dilation: Dilation of the second convolution, or None.
        stride_in_1x1: Must be False.

    Raises:
        ValueError: If an argument has a value that only Bottleneck supports.
    """

    expansion: int = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: NormLayer = nn.BatchNorm2d,
        second_dilation: int | None = None,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ValueError(
                f"BasicBlock only supports groups=1 and base_width=64, got groups={groups}, base_width={base_width}; "
                "ResNeXt and Wide ResNet need Bottleneck blocks"
            )
        if stride_in_1x1:
            raise ValueError("stride_in_1x1=True: a BasicBlock has no 1x1 convolution; use Bottleneck blocks")
        self.conv1 = _conv3x3(inplanes, planes, stride, dilation=dilation)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes, dilation=dilation if second_dilation is None else second_dilation)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        result: Tensor = self.relu(out)
        return result


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3 and 1x1 convolutions, for ResNet-50 and deeper.

    (N, inplanes, H, W) -> (N, 4 * planes, ceil(H / stride), ceil(W / stride)).

    Args:
        inplanes: Number of input channels.
        planes: A quarter of the number of output channels.
        stride: Stride of the 3x3 convolution.
        downsample: Shortcut that matches the input to the output's shape, or None for the identity.
        groups: Groups of the 3x3 convolution (ResNeXt).
        base_width: Channels per group of the 3x3 convolution, for 64 `planes`.
        dilation: Dilation of the 3x3 convolution.
        norm_layer: Factory that builds a norm layer for a given number of channels.
        second_dilation: Must be None, because there is a single 3x3 convolution.
        stride_in_1x1: Whether the stride is in the first 1x1 convolution, as in the original ResNets ("v1").

    Raises:
        ValueError: If `second_dilation` is given.
    """

    expansion: int = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: NormLayer = nn.BatchNorm2d,
        second_dilation: int | None = None,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        if second_dilation is not None:
            raise ValueError(f"second_dilation={second_dilation}: a Bottleneck has a single 3x3 convolution")
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = _conv1x1(inplanes, width, stride if stride_in_1x1 else 1)
        self.bn1 = norm_layer(width)
        self.conv2 = _conv3x3(width, width, 1 if stride_in_1x1 else stride, groups, dilation)
        self.bn2 = norm_layer(width)
        self.conv3 = _conv1x1(width, planes * self.expansion)
        self.bn3 = norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        result: Tensor = self.relu(out)
        return result


class _PaddedAveragePool(nn.Module):
    """2x2 average pooling at stride 1, with zero padding on the right and bottom, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, [0, 1, 0, 1]), 2, 1)


def shortcut(
    downsample: str, in_channels: int, out_channels: int, *, stride: int, dilated: bool, norm_layer: NormLayer
) -> nn.Sequential:
    """Build the shortcut that matches a block's input to the shape of its output.

    Args: downsample: "conv", a strided 1x1 convolution; "average", strided average pooling and a 1x1 convolution (v1d);
        or "average_dilated", which also pools at stride 1 in a dilated stage (timm).
        in_channels: Channels of the block's input.
        out_channels: Channels of the block's output.
        stride: Stride of the block.
        dilated: Whether dilation replaces the stride of the stage.
        norm_layer: Factory that builds a norm layer for a given number of channels.

    Returns:
        Module that maps (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """
    if downsample == "conv":
        return nn.Sequential(_conv1x1(in_channels, out_channels, stride), norm_layer(out_channels))
    pooling: nn.Module = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    if stride == 1:
        pooling = _PaddedAveragePool() if downsample == "average_dilated" and dilated else nn.Identity()
    return nn.Sequential(pooling, _conv1x1(in_channels, out_channels), norm_layer(out_channels))


def first_convolution(stem: str, in_channels: int, out_channels: int, norm_layer: NormLayer) -> nn.Module:
    """Build the first convolution, without the norm and ReLU that follow.

    Args:
        stem: "plain", a 7x7 convolution; or "deep", three 3x3 convolutions (v1c).
        in_channels: Number of image channels.
        out_channels: Number of output channels.
        norm_layer: Factory that builds a norm layer for a given number of channels.

    Returns:
        Module that maps (N, in_channels, H, W) to (N, out_channels, ceil(H / 2), ceil(W / 2)).
    """
    if stem == "plain":
        return nn.Conv2d(in_channels, out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    half = out_channels // 2
    first = ConvNormAct(in_channels, half, kernel_size=3, stride=2, norm_layer=norm_layer)
    second = ConvNormAct(half, half, kernel_size=3, norm_layer=norm_layer)
    return nn.Sequential(*first, *second, _conv3x3(half, out_channels))
