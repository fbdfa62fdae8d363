"""ResNet, ResNeXt and Wide ResNet, with dilation in place of stride where a segmentation network wants it.

He et al. 2015, https://arxiv.org/abs/1512.03385; Xie et al. 2016, https://arxiv.org/abs/1611.05431;
Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146.
Behaves as torchvision.models.resnet: after `torch.manual_seed(s)` the same weights are drawn, in the same order. Its
other options behave as timm's and mmsegmentation's ResNets (see `segnets.options`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segnets.backbones._resnet_blocks import BasicBlock, Bottleneck, first_convolution, shortcut
from segnets.backbones.spec import FULL_CLASSES, Stage, Stages, check_classes, classifier_config, classifier_norm
from segnets.card import JSON, ModelConfig
from segnets.layers import NormLayer
from segnets.options import check_values

_STAGES = (2, 3, 4)  # those that can dilate


class ResNet(nn.Module):
    """A ResNet classifier: (N, in_channels, H, W) float -> (N, num_classes) logits. `layer1` .. `layer4` are features.

    block: BasicBlock or Bottleneck; layers: how many of them in each of the four stages.
    num_classes: 0 leaves `fc` out; the pooled features come out, (N, 512 * expansion).
    groups, width_per_group: ResNeXt's cardinality and width; Wide ResNet doubles the width.
    replace_stride_with_dilation: for stages 2, 3 and 4, whether dilation takes the place of the stride.
    zero_init_residual: start every residual branch at zero (https://arxiv.org/abs/1706.02677).
    norm_layer: what makes a norm for a number of channels, batch norm by default.
    in_channels, first_block_dilation, basic_block_dilation, multi_grid, stem, downsample, stride_in_1x1: see
    `segnets.options.Options`; the defaults are torchvision's, and timm's where torchvision has none.

    Raises ValueError if `layers`, `replace_stride_with_dilation` or `multi_grid` has the wrong length, for a number of
    classes below 0, or for a stride in the 1x1 convolution of blocks that have none.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = FULL_CLASSES,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: NormLayer | None = None,
        *,
        in_channels: int = 3,
        first_block_dilation: str = "previous",
        basic_block_dilation: str = "both",
        multi_grid: Sequence[int] | None = None,
        stem: str = "plain",
        downsample: str = "conv",
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        dilate = (False, False, False) if replace_stride_with_dilation is None else replace_stride_with_dilation
        if len(dilate) != len(_STAGES):
            raise ValueError(
                f"replace_stride_with_dilation should be None or a 3-element tuple (stages 2, 3, 4), got {dilate}"
            )
        if len(layers) != 4:
            raise ValueError(f"layers={list(layers)}: expected the number of blocks in each of four stages")
        if multi_grid is not None and len(multi_grid) != layers[-1]:
            raise ValueError(f"multi_grid={list(multi_grid)}: the fourth stage has {layers[-1]} blocks, one for each")
        check_values(
            {
                "in_channels": in_channels,
                "first_block_dilation": first_block_dilation,
                "basic_block_dilation": basic_block_dilation,
                "stem": stem,
                "downsample": downsample,
                "stride_in_1x1": stride_in_1x1,
            }
        )
        self.config: ModelConfig | None = None
        self.num_classes = check_classes(num_classes)
        norm = norm_layer or nn.BatchNorm2d
        make_block = partial(
            block, groups=groups, base_width=width_per_group, norm_layer=norm, stride_in_1x1=stride_in_1x1
        )
        self.conv1 = first_convolution(stem, in_channels, 64, norm)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

        stages: list[nn.Sequential] = []
        channels, dilation = 64, 1
        for stage, (planes, depth) in enumerate(zip((64, 128, 256, 512), layers, strict=True), start=1):
            first_dilation = dilation  # the first block keeps it, also where this stage trades its stride for more
            stride = 1 if stage == 1 else 2
            dilated = stage in _STAGES and dilate[stage - 2]
            if dilated:
                stride, dilation = 1, dilation * stride
                first_dilation = dilation if first_block_dilation == "same" else first_dilation
            dilations = [first_dilation] + [dilation] * (depth - 1)
            second = [dilation] * depth
            if multi_grid is not None and stage == 4:
                dilations = second = list(multi_grid)
            if basic_block_dilation == "first":
                second = [1] * depth
            out_channels = planes * block.expansion
            adapter = None
            if stride != 1 or channels != out_channels:
                adapter = shortcut(downsample, channels, out_channels, stride=stride, dilated=dilated, norm_layer=norm)
            blocks: list[nn.Module] = []
            for i in range(depth):
                blocks.append(
                    make_block(
                        channels,
                        planes,
                        stride if i == 0 else 1,
                        adapter if i == 0 else None,
                        dilation=dilations[i],
                        second_dilation=second[i] if block is BasicBlock else None,
                    )
                )
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc: nn.Module = nn.Linear(channels, self.num_classes or FULL_CLASSES)
        self._initialise(zero_init_residual)
        if self.num_classes == 0:  # after it was drawn, so that the features begin as those of a full classifier
            self.fc = nn.Identity()

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
                    last.state_dict()["weight"].zero_()  # a parameter, or a buffer where it is frozen

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, H/4, W/4)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)  # (N, 512 * expansion, H/32, W/32) without dilation
        scores: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return scores


@dataclass(frozen=True)
class ResNetSpec:
    """One of the ResNets: called, it is the classifier; below a head, see `segnets.backbones.spec.BackboneSpec`.

    The classifier takes the options of `ResNet`, and norm_layer also as "batch", "sync", "frozen" or "group", with
    norm_eps. One whose norm_layer is a function has no config, and so can't be saved.
    """

    name: str
    title: str
    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64

    output_stride = 8
    norm_momentum = 0.1
    features_prefix = ""

    @property
    def geometry(self) -> Mapping[str, JSON]:
        return {"downsample": "conv", "stride_in_1x1": False, "norm_eps": 1e-5, "replace_stride_with_dilation": None}

    def __call__(self, **options: Any) -> ResNet:
        plain = dict(options)
        norm = classifier_norm(plain, eps=1e-5, momentum=self.norm_momentum)
        widths = {"groups": self.groups, "width_per_group": self.width_per_group}
        model = ResNet(self.block, self.depths, norm_layer=norm, **{**widths, **plain})
        model.config = classifier_config(self.name, model.num_classes, options)
        return model

    def defaults(self, given: Mapping[str, Any], output_stride: int) -> dict[str, JSON]:
        count = given.get("backbone_stages", 4)
        natural = 2 ** (count + 1)
        stride = given.get("output_stride", min(output_stride, natural))
        if stride > natural:
            raise ValueError(f"output_stride={stride}: backbone_stages={count} shrink the image by {natural} at most")
        options: dict[str, JSON] = {
            "in_channels": 3,
            "output_stride": stride,
            "backbone_stages": 4,
            "stem": "plain",
            "downsample": "conv",
            "norm_layer": "batch",
            "norm_eps": 1e-5,
        }
        if self.block is Bottleneck:
            options["stride_in_1x1"] = False
        if count == 4:
            options["multi_grid"] = None
        grid = given.get("multi_grid")
        if grid is not None and len(grid) != self.depths[-1]:
            raise ValueError(f"multi_grid={grid}: the fourth stage of {self.name} has {self.depths[-1]} blocks")
        if stride < (natural if grid is None else natural // 2):
            options["first_block_dilation"] = "previous"
        if self.block is BasicBlock and (stride < natural or grid is not None):
            options["basic_block_dilation"] = "both"
        return options

    def stages(self, options: Mapping[str, Any]) -> Stages:
        stages = tuple(
            Stage(f"layer{i}", 2 ** (i + 5) * self.block.expansion, 2 ** (i + 1))
            for i in range(1, options["backbone_stages"] + 1)
        )
        return Stages(stages, aux=stages[-2], out=stages[-1])

    def unused_prefixes(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("fc.", *(f"layer{i}." for i in range(options["backbone_stages"] + 1, 5)))

    def build(self, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
        taken = ("in_channels", "first_block_dilation", "basic_block_dilation", "multi_grid", "stem", "downsample")
        return ResNet(
            self.block,
            self.depths,
            groups=self.groups,
            width_per_group=self.width_per_group,
            replace_stride_with_dilation=[2 ** (stage + 1) > options["output_stride"] for stage in _STAGES],
            norm_layer=norm_layer,
            stride_in_1x1=options.get("stride_in_1x1", False),
            **{key: options[key] for key in taken if key in options},
        )


resnet18 = ResNetSpec("resnet18", "ResNet-18", BasicBlock, (2, 2, 2, 2))
resnet34 = ResNetSpec("resnet34", "ResNet-34", BasicBlock, (3, 4, 6, 3))
resnet50 = ResNetSpec("resnet50", "ResNet-50", Bottleneck, (3, 4, 6, 3))
resnet101 = ResNetSpec("resnet101", "ResNet-101", Bottleneck, (3, 4, 23, 3))
resnet152 = ResNetSpec("resnet152", "ResNet-152", Bottleneck, (3, 8, 36, 3))
resnext50_32x4d = ResNetSpec("resnext50_32x4d", "ResNeXt-50 32x4d", Bottleneck, (3, 4, 6, 3), 32, 4)
resnext101_32x8d = ResNetSpec("resnext101_32x8d", "ResNeXt-101 32x8d", Bottleneck, (3, 4, 23, 3), 32, 8)
resnext101_64x4d = ResNetSpec("resnext101_64x4d", "ResNeXt-101 64x4d", Bottleneck, (3, 4, 23, 3), 64, 4)
# The 3x3 convolutions of a Wide ResNet are twice as wide.
wide_resnet50_2 = ResNetSpec("wide_resnet50_2", "Wide ResNet-50-2", Bottleneck, (3, 4, 6, 3), 1, 128)
wide_resnet101_2 = ResNetSpec("wide_resnet101_2", "Wide ResNet-101-2", Bottleneck, (3, 4, 23, 3), 1, 128)
