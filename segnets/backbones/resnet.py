"""ResNet, ResNeXt and Wide ResNet, with dilation in place of stride where a segmentation network wants it.

He et al. 2015, https://arxiv.org/abs/1512.03385; Xie et al. 2016, https://arxiv.org/abs/1611.05431;
Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146.
Behaves as torchvision.models.resnet: the stride sits in the 3x3 convolution ("v1.5"), and after
`torch.manual_seed(s)` the same weights are drawn, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON, ModelConfig
from segnets.layers.conv_norm_act import NormLayer


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False
    )


def _conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, for ResNet-18 and -34.

    (N, inplanes, H, W) -> (N, planes, ceil(H / stride), ceil(W / stride)).
    Raises ValueError for groups or widths that it can't have, NotImplementedError for a dilation (as torchvision).
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
    ) -> None:
        super().__init__()
        if groups != 1 or base_width != 64:
            raise ValueError(
                f"BasicBlock only supports groups=1 and base_width=64, got groups={groups}, base_width={base_width}; "
                "ResNeXt and Wide ResNet are built of Bottleneck blocks"
            )
        if dilation > 1:
            raise NotImplementedError(
                f"Dilation > 1 not supported in BasicBlock, got dilation={dilation}; use a ResNet of Bottleneck blocks "
                "(resnet50 and deeper)"
            )
        self.conv1 = _conv3x3(inplanes, planes, stride)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes)
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
    ) -> None:
        super().__init__()
        width = int(planes * (base_width / 64.0)) * groups
        self.conv1 = _conv1x1(inplanes, width)
        self.bn1 = norm_layer(width)
        self.conv2 = _conv3x3(width, width, stride, groups, dilation)
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


class ResNet(nn.Module):
    """A ResNet classifier: (N, 3, H, W) float -> (N, num_classes) logits. Its `layer1` .. `layer4` serve as backbone.

    block: BasicBlock or Bottleneck; layers: how many of them in each of the four stages.
    groups, width_per_group: ResNeXt's cardinality and width; Wide ResNet doubles the width.
    replace_stride_with_dilation: for stages 2, 3 and 4, whether dilation takes the place of the stride. The first
    block of such a stage keeps the dilation of the stage before; the later ones have the new one (torchvision's rule).
    zero_init_residual: start every residual branch at zero (https://arxiv.org/abs/1706.02677).

    Raises ValueError if `layers` or `replace_stride_with_dilation` has the wrong length.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        dilate = (False, False, False) if replace_stride_with_dilation is None else replace_stride_with_dilation
        if len(dilate) != 3:
            raise ValueError(
                f"replace_stride_with_dilation should be None or a 3-element tuple (stages 2, 3, 4), got {dilate}"
            )
        if len(layers) != 4:
            raise ValueError(f"layers={list(layers)}: expected the number of blocks in each of four stages")
        self.config: ModelConfig | None = None
        norm = norm_layer or nn.BatchNorm2d
        make_block = partial(block, groups=groups, base_width=width_per_group, norm_layer=norm)
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

        stages: list[nn.Sequential] = []
        channels, dilation = 64, 1
        for stage, (planes, depth) in enumerate(zip((64, 128, 256, 512), layers, strict=True), start=1):
            first_dilation = dilation  # the first block keeps it, also where this stage trades its stride for more
            stride = 1 if stage == 1 else 2
            if stage > 1 and dilate[stage - 2]:
                stride, dilation = 1, dilation * stride
            out_channels = planes * block.expansion
            downsample = None
            if stride != 1 or channels != out_channels:
                downsample = nn.Sequential(_conv1x1(channels, out_channels, stride), norm(out_channels))
            blocks = [make_block(channels, planes, stride, downsample, dilation=first_dilation)]
            blocks += [make_block(out_channels, planes, dilation=dilation) for _ in range(1, depth)]
            stages.append(nn.Sequential(*blocks))
            channels = out_channels
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        """He initialisation, drawn in the order of the modules as torchvision does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.constant_(module.weight, 1)
                nn.init.constant_(module.bias, 0)
        if zero_init_residual:
            for module in self.modules():
                last = module.bn3 if isinstance(module, Bottleneck) else getattr(module, "bn2", None)
                if isinstance(module, BasicBlock | Bottleneck) and isinstance(last, nn.Module):
                    nn.init.constant_(last.get_parameter("weight"), 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, H/4, W/4)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)  # (N, 512 * expansion, H/32, W/32) without dilation
        scores: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return scores


def _resnet(name: str, block: type[BasicBlock] | type[Bottleneck], layers: Sequence[int], **options: Any) -> ResNet:
    model = ResNet(block, layers, **options)
    recorded: dict[str, JSON] = {"num_classes": model.fc.out_features}
    if options.get("replace_stride_with_dilation") is not None:
        recorded["replace_stride_with_dilation"] = list(options["replace_stride_with_dilation"])
    model.config = ModelConfig(name, recorded)
    return model


def resnet18(**options: Any) -> ResNet:
    """ResNet-18. Options: those of `ResNet`."""
    return _resnet("resnet18", BasicBlock, (2, 2, 2, 2), **options)


def resnet34(**options: Any) -> ResNet:
    """ResNet-34. Options: those of `ResNet`."""
    return _resnet("resnet34", BasicBlock, (3, 4, 6, 3), **options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50. Options: those of `ResNet`."""
    return _resnet("resnet50", Bottleneck, (3, 4, 6, 3), **options)


def resnet101(**options: Any) -> ResNet:
    """ResNet-101. Options: those of `ResNet`."""
    return _resnet("resnet101", Bottleneck, (3, 4, 23, 3), **options)


def resnet152(**options: Any) -> ResNet:
    """ResNet-152. Options: those of `ResNet`."""
    return _resnet("resnet152", Bottleneck, (3, 8, 36, 3), **options)


def resnext50_32x4d(**options: Any) -> ResNet:
    """ResNeXt-50, 32 groups of width 4. Options: those of `ResNet`."""
    return _resnet("resnext50_32x4d", Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4, **options)


def resnext101_32x8d(**options: Any) -> ResNet:
    """ResNeXt-101, 32 groups of width 8. Options: those of `ResNet`."""
    return _resnet("resnext101_32x8d", Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8, **options)


def resnext101_64x4d(**options: Any) -> ResNet:
    """ResNeXt-101, 64 groups of width 4. Options: those of `ResNet`."""
    return _resnet("resnext101_64x4d", Bottleneck, (3, 4, 23, 3), groups=64, width_per_group=4, **options)


def wide_resnet50_2(**options: Any) -> ResNet:
    """Wide ResNet-50-2: the 3x3 convolutions twice as wide. Options: those of `ResNet`."""
    return _resnet("wide_resnet50_2", Bottleneck, (3, 4, 6, 3), width_per_group=128, **options)


def wide_resnet101_2(**options: Any) -> ResNet:
    """Wide ResNet-101-2: the 3x3 convolutions twice as wide. Options: those of `ResNet`."""
    return _resnet("wide_resnet101_2", Bottleneck, (3, 4, 23, 3), width_per_group=128, **options)
