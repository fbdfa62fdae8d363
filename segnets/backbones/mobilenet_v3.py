"""MobileNetV3, large and small.

Howard et al. 2019, "Searching for MobileNetV3", tables 1 and 2, https://arxiv.org/abs/1905.02244
Behaves as torchvision.models.mobilenetv3: batch norm with eps 1e-3 and momentum 0.01, the same initial weights
in the same order after `torch.manual_seed(s)`, dilation of 2 in the last stage with `dilated=True`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import ModelConfig
from segnets.layers.conv_norm_act import ConvNormAct, NormLayer
from segnets.layers.inverted_residual import InvertedResidual, InvertedResidualSpec, round_channels


class MobileNetV3(nn.Module):
    """A MobileNetV3 classifier: (N, 3, H, W) float -> (N, num_classes) logits. Its `features` serve as backbone.

    blocks: the rows of the paper's table, as `large_blocks` and `small_blocks` give them.
    last_channels: width of the hidden layer of the classifier.
    """

    def __init__(
        self,
        blocks: Sequence[InvertedResidualSpec],
        last_channels: int,
        num_classes: int = 1000,
        norm_layer: NormLayer | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if not blocks:
            raise ValueError("blocks is empty: expected at least one InvertedResidualSpec")
        self.config: ModelConfig | None = None
        norm = norm_layer or partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
        brick = partial(ConvNormAct, norm_layer=norm, activation=nn.Hardswish)
        last = blocks[-1].out_channels
        self.features = nn.Sequential(
            brick(3, blocks[0].in_channels, kernel_size=3, stride=2),
            *(InvertedResidual(spec, norm) for spec in blocks),
            brick(last, 6 * last, kernel_size=1),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * last, last_channels),
            nn.Hardswish(inplace=True),
            nn.Dropout(p=dropout, inplace=True),
            nn.Linear(last_channels, num_classes),
        )
        # Where the published stages C0 .. Cn end: the first layer, every block with stride 2, the last layer.
        # (torchvision counts its feature levels from the end of this list.)
        strided = [i for i, spec in enumerate(blocks, start=1) if spec.stride > 1]
        self.stages = [0, *strided, len(blocks) + 1]
        self._initialise()

    def stage(self, index: int) -> tuple[str, int]:
        """The name in `features` and the channels of stage `index`; negative numbers count from the end."""
        position = self.stages[index]
        channels = self.features[position].out_channels
        if not isinstance(channels, int):
            raise TypeError(f"features.{position} does not tell its out_channels")
        return str(position), channels

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, 6 * last, H/32, W/32), H/16 if dilated
        scores: Tensor = self.classifier(torch.flatten(self.avgpool(x), 1))
        return scores


def large_blocks(
    *, dilated: bool = False, reduced_tail: bool = False, width_mult: float = 1.0
) -> list[InvertedResidualSpec]:
    """Table 1 of the paper. `dilated` and `reduced_tail` (half the last stage) are section 6.4's for segmentation."""
    d, tail = 2 if dilated else 1, 2 if reduced_tail else 1
    rows: list[tuple[int, int, int, int, bool, bool, int, int]] = [
        # in, kernel, expanded, out, squeeze-excitation, hardswish, stride, dilation
        (16, 3, 16, 16, False, False, 1, 1),
        (16, 3, 64, 24, False, False, 2, 1),  # C1
        (24, 3, 72, 24, False, False, 1, 1),
        (24, 5, 72, 40, True, False, 2, 1),  # C2
        (40, 5, 120, 40, True, False, 1, 1),
        (40, 5, 120, 40, True, False, 1, 1),
        (40, 3, 240, 80, False, True, 2, 1),  # C3
        (80, 3, 200, 80, False, True, 1, 1),
        (80, 3, 184, 80, False, True, 1, 1),
        (80, 3, 184, 80, False, True, 1, 1),
        (80, 3, 480, 112, True, True, 1, 1),
        (112, 3, 672, 112, True, True, 1, 1),
        (112, 5, 672, 160 // tail, True, True, 2, d),  # C4
        (160 // tail, 5, 960 // tail, 160 // tail, True, True, 1, d),
        (160 // tail, 5, 960 // tail, 160 // tail, True, True, 1, d),
    ]
    return [_spec(*row, width_mult=width_mult) for row in rows]


def small_blocks(
    *, dilated: bool = False, reduced_tail: bool = False, width_mult: float = 1.0
) -> list[InvertedResidualSpec]:
    """Table 2 of the paper; the options as in `large_blocks`."""
    d, tail = 2 if dilated else 1, 2 if reduced_tail else 1
    rows: list[tuple[int, int, int, int, bool, bool, int, int]] = [
        (16, 3, 16, 16, True, False, 2, 1),  # C1
        (16, 3, 72, 24, False, False, 2, 1),  # C2
        (24, 3, 88, 24, False, False, 1, 1),
        (24, 5, 96, 40, True, True, 2, 1),  # C3
        (40, 5, 240, 40, True, True, 1, 1),
        (40, 5, 240, 40, True, True, 1, 1),
        (40, 5, 120, 48, True, True, 1, 1),
        (48, 5, 144, 48, True, True, 1, 1),
        (48, 5, 288, 96 // tail, True, True, 2, d),  # C4
        (96 // tail, 5, 576 // tail, 96 // tail, True, True, 1, d),
        (96 // tail, 5, 576 // tail, 96 // tail, True, True, 1, d),
    ]
    return [_spec(*row, width_mult=width_mult) for row in rows]


def _spec(
    in_channels: int,
    kernel_size: int,
    expanded: int,
    out_channels: int,
    squeeze_excitation: bool,
    hardswish: bool,
    stride: int,
    dilation: int,
    *,
    width_mult: float,
) -> InvertedResidualSpec:
    return InvertedResidualSpec(
        in_channels=round_channels(in_channels * width_mult),
        kernel_size=kernel_size,
        expanded_channels=round_channels(expanded * width_mult),
        out_channels=round_channels(out_channels * width_mult),
        squeeze_excitation=squeeze_excitation,
        activation="hardswish" if hardswish else "relu",
        stride=stride,
        dilation=dilation,
    )


def mobilenet_v3_large(
    *, dilated: bool = False, reduced_tail: bool = False, width_mult: float = 1.0, **options: Any
) -> MobileNetV3:
    """MobileNetV3-Large. Further options: those of `MobileNetV3`."""
    blocks = large_blocks(dilated=dilated, reduced_tail=reduced_tail, width_mult=width_mult)
    last = round_channels((1280 // 2 if reduced_tail else 1280) * width_mult)
    return _named(MobileNetV3(blocks, last, **options), "mobilenet_v3_large", dilated, reduced_tail, width_mult)


def mobilenet_v3_small(
    *, dilated: bool = False, reduced_tail: bool = False, width_mult: float = 1.0, **options: Any
) -> MobileNetV3:
    """MobileNetV3-Small. Further options: those of `MobileNetV3`."""
    blocks = small_blocks(dilated=dilated, reduced_tail=reduced_tail, width_mult=width_mult)
    last = round_channels((1024 // 2 if reduced_tail else 1024) * width_mult)
    return _named(MobileNetV3(blocks, last, **options), "mobilenet_v3_small", dilated, reduced_tail, width_mult)


def _named(model: MobileNetV3, name: str, dilated: bool, reduced_tail: bool, width_mult: float) -> MobileNetV3:
    options: dict[str, Any] = {"num_classes": model.classifier[-1].out_features}
    if dilated:
        options["dilated"] = True
    if reduced_tail:
        options["reduced_tail"] = True
    if width_mult != 1.0:
        options["width_mult"] = width_mult
    model.config = ModelConfig(name, options)
    return model
