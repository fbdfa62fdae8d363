"""ResNet, ResNeXt and Wide ResNet, with optional dilation instead of stride.

He et al. 2015, https://arxiv.org/abs/1512.03385
Xie et al. 2016, https://arxiv.org/abs/1611.05431
Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146
Behaves like torchvision.models.resnet, and draws the same initial weights after `torch.manual_seed(s)`. Options that
torchvision lacks follow timm and mmsegmentation (see `segnets.options`).
"""

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

_DILATABLE_STAGES = (2, 3, 4)


class ResNet(nn.Module):
    """ResNet classifier: (N, in_channels, H, W) -> logits (N, num_classes).

    The stages `layer1` to `layer4` output the feature maps. The defaults are torchvision's, or timm's for options that
    torchvision lacks.

    Args:
        block: BasicBlock or Bottleneck.
        layers: Number of blocks in each of the four stages.
        num_classes: Number of classes, or 0 for a network without `fc` that returns the pooled features
            (N, 512 * expansion).
        zero_init_residual: Whether every residual branch starts at zero (https://arxiv.org/abs/1706.02677).
        groups: Cardinality of ResNeXt.
        width_per_group: Channels per group in ResNeXt; 128 instead of 64 in Wide ResNet.
        replace_stride_with_dilation: Whether dilation replaces the stride of stages 2, 3 and 4; None keeps every
            stride.
        norm_layer: Factory that builds a norm layer for a given number of channels; None means `nn.BatchNorm2d`.
        in_channels: Number of image channels.
        first_block_dilation: See `segnets.options.OPTIONS`.
        basic_block_dilation: See `segnets.options.OPTIONS`.
        multi_grid: See `segnets.options.OPTIONS`.
        stem: See `segnets.options.OPTIONS`.
        downsample: See `segnets.options.OPTIONS`.
        stride_in_1x1: See `segnets.options.OPTIONS`.

    Raises:
        ValueError: If `layers`, `replace_stride_with_dilation` or `multi_grid` has the wrong length, `num_classes` is
            negative, or an option has a value that the block does not support.
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
        if len(dilate) != len(_DILATABLE_STAGES):
            raise ValueError(
                f"replace_stride_with_dilation should be None or a 3-element tuple (stages 2, 3, 4), got {dilate}"
            )
        if len(layers) != 4:
            raise ValueError(f"layers={list(layers)}: expected the number of blocks in each of four stages")
        if multi_grid is not None and len(multi_grid) != layers[-1]:
            raise ValueError(
                f"multi_grid={list(multi_grid)}: expected {layers[-1]} dilations, one per block of the fourth stage"
            )
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
            # The first block of a dilated stage keeps the previous dilation: torchvision's rule.
            first_dilation = dilation
            stride = 1 if stage == 1 else 2
            dilated = stage in _DILATABLE_STAGES and dilate[stage - 2]
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
        if self.num_classes == 0:
            # Remove it only now, so that the features get the same initial weights as in a classifier.
            self.fc = nn.Identity()

    def _initialise(self, zero_init_residual: bool) -> None:
        """Apply He initialisation in the order of the modules, as torchvision does."""
        if next(self.parameters()).is_meta:
            return  # the meta device has no values
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
                    last.state_dict()["weight"].zero_()  # a parameter, or a buffer of a frozen norm

    def forward(self, x: Tensor) -> Tensor:
        """Compute class logits of an image.

        Args:
            x: Batch of shape (N, in_channels, H, W), floating point.

        Returns:
            Logits of shape (N, num_classes), or pooled features if `num_classes` is 0.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (N, 64, H/4, W/4)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)  # (N, 512 * expansion, H/32, W/32) without dilation
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


@dataclass(frozen=True)
class ResNetSpec:
    """Description of one ResNet; see `segnets.backbones.BackboneSpec`.

    Calling it builds the classifier. It takes the options of `ResNet`, and `norm_layer` also as "batch", "sync",
    "frozen" or "group" together with `norm_eps`. A classifier with a function as `norm_layer` has no config, and
    can't be saved.

    Attributes:
        name: Name of the network.
        title: Human-readable name.
        block: Class of the residual blocks.
        depths: Number of blocks in each of the four stages.
        groups: Cardinality of ResNeXt.
        width_per_group: Channels per group.
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
        """Default options of a classifier that its tensors do not show."""
        return {"downsample": "conv", "stride_in_1x1": False, "norm_eps": 1e-5, "replace_stride_with_dilation": None}

    def __call__(self, **options: Any) -> ResNet:
        """Build the classifier."""
        plain = dict(options)
        norm = classifier_norm(plain, eps=1e-5, momentum=self.norm_momentum)
        widths = {"groups": self.groups, "width_per_group": self.width_per_group}
        model = ResNet(self.block, self.depths, norm_layer=norm, **{**widths, **plain})
        model.config = classifier_config(self.name, model.num_classes, options)
        return model

    def defaults(self, given: Mapping[str, Any], output_stride: int) -> dict[str, JSON]:
        """Return the options that apply; see `BackboneSpec.defaults`."""
        count = given.get("backbone_stages", 4)
        natural = 2 ** (count + 1)
        stride = given.get("output_stride", min(output_stride, natural))
        if stride > natural:
            raise ValueError(f"output_stride={stride}: expected at most {natural} with backbone_stages={count}")
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
            raise ValueError(
                f"multi_grid={grid}: expected {self.depths[-1]} dilations, one per block of the fourth stage"
            )
        if stride < (natural if grid is None else natural // 2):
            options["first_block_dilation"] = "previous"
        if self.block is BasicBlock and (stride < natural or grid is not None):
            options["basic_block_dilation"] = "both"
        return options

    def stages(self, options: Mapping[str, Any]) -> Stages:
        """Return the feature maps; see `BackboneSpec.stages`."""
        stages = tuple(
            Stage(f"layer{i}", 2 ** (i + 5) * self.block.expansion, 2 ** (i + 1))
            for i in range(1, options["backbone_stages"] + 1)
        )
        return Stages(stages, aux=stages[-2], out=stages[-1])

    def unused_prefixes(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the prefixes of tensors outside the features; see `BackboneSpec.unused_prefixes`."""
        return ("fc.", *(f"layer{i}." for i in range(options["backbone_stages"] + 1, 5)))

    def build(self, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
        """Build the backbone; see `BackboneSpec.build`."""
        taken = ("in_channels", "first_block_dilation", "basic_block_dilation", "multi_grid", "stem", "downsample")
        return ResNet(
            self.block,
            self.depths,
            groups=self.groups,
            width_per_group=self.width_per_group,
            replace_stride_with_dilation=[2 ** (stage + 1) > options["output_stride"] for stage in _DILATABLE_STAGES],
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
