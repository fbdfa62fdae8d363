"""What a ResNet is built of: its two kinds of residual blocks, their shortcuts, and the first layers.

He et al. 2015, https://arxiv.org/abs/1512.03385. Behaves as torchvision.models.resnet, where the stride sits in the
3x3 convolution ("v1.5"). The variants of He et al. 2018, "Bag of Tricks", https://arxiv.org/abs/1812.01187, behave as
timm's and mmsegmentation's: the deep stem ("C", v1c) and average pooling in the shortcuts ("D", v1d).
"""

from __future__ import annotations

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
    """Two 3x3 convolutions and a shortcut, for ResNet-18 and -34.

    dilation: of the first convolution, and of the second one unless second_dilation is given.

    (N, inplanes, H, W) -> (N, planes, ceil(H / stride), ceil(W / stride)).
    Raises ValueError for groups or widths that it can't have, and for a stride in a 1x1 convolution.
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
                "ResNeXt and Wide ResNet are built of Bottleneck blocks"
            )
        if stride_in_1x1:
            raise ValueError("stride_in_1x1=True: a BasicBlock has no 1x1 convolution; Bottleneck blocks have")
        self.conv1 = _conv3x3(inplanes, planes, stride, dilation=dilation)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes, dilation=dilation if second_dilation is None else second_dilation)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        result: Tensor = self.relu(out)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided or dilated) and 1x1 convolutions and a shortcut, for ResNet-50 and deeper.

    stride_in_1x1: the stride sits in the first 1x1 convolution, as in the first ResNets, Caffe's ("v1").
    second_dilation: must be left out; there is a single 3x3 convolution.

    (N, inplanes, H, W) -> (N, 4 * planes, ceil(H / stride), ceil(W / stride)).
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
    """The mean of 2x2 pixels at stride 1, the right and lower edge padded with zeros, as timm does it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, [0, 1, 0, 1]), 2, 1)


def shortcut(
    kind: str, in_channels: int, out_channels: int, *, stride: int, dilated: bool, norm_layer: NormLayer
) -> nn.Sequential:
    """The layers that make a block's input fit its output. dilated: the stage's dilation took the stride's place.

    kind: "conv", a 1x1 convolution with the stride; or "average", average pooling with the stride and a 1x1
    convolution (v1d); or "average_dilated", which pools with stride 1 where dilation took the stride's place (timm).
    """
    if kind == "conv":
        return nn.Sequential(_conv1x1(in_channels, out_channels, stride), norm_layer(out_channels))
    pooling: nn.Module = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    if stride == 1:
        pooling = _PaddedAveragePool() if kind == "average_dilated" and dilated else nn.Identity()
    return nn.Sequential(pooling, _conv1x1(in_channels, out_channels), norm_layer(out_channels))


def first_convolution(stem: str, in_channels: int, out_channels: int, norm_layer: NormLayer) -> nn.Module:
    """(N, in_channels, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2)), with a norm and ReLU still to follow.

    stem: "plain", one 7x7 convolution; or "deep", three of 3x3 (v1c).
    """
    if stem == "plain":
        return nn.Conv2d(in_channels, out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    half = out_channels // 2
    first = ConvNormAct(in_channels, half, kernel_size=3, stride=2, norm_layer=norm_layer)
    second = ConvNormAct(half, half, kernel_size=3, norm_layer=norm_layer)
    return nn.Sequential(*first, *second, _conv3x3(half, out_channels))
