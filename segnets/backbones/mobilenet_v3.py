"""MobileNetV3, large and small.

Howard et al. 2019, "Searching for MobileNetV3", tables 1 and 2, https://arxiv.org/abs/1905.02244
Behaves like torchvision.models.mobilenetv3, and draws the same initial weights after `torch.manual_seed(s)`. Batch
norms have eps 1e-3 and momentum 0.01. `dilated=True` dilates the last stage by 2. Other output strides and
`first_block_dilation="previous"` follow timm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segnets.backbones.spec import FULL_CLASSES, Stage, Stages, check_classes, classifier_config, classifier_norm
from segnets.card import JSON, ModelConfig
from segnets.layers import ConvNormAct, InvertedResidual, InvertedResidualSpec, NormLayer, round_channels
from segnets.options import check_values

_EPS, _MOMENTUM = 1e-3, 0.01  # for batch norm


class MobileNetV3(nn.Module):
    """MobileNetV3 classifier: (N, in_channels, H, W) -> logits (N, num_classes).

    The child `features` is the backbone of segmentation networks.

    Args:
        blocks: Parameters of the blocks, from `large_blocks` or `small_blocks`.
        last_channels: Channels of the classifier's hidden layer.
        num_classes: Number of classes, or 0 for a network without `classifier` that returns the pooled features
            (N, 6 * channels of the last block).
        norm_layer: Factory that builds a norm layer for a given number of channels; None means batch norm with the
            paper's eps and momentum.
        dropout: Dropout probability in the classifier.
        in_channels: Number of image channels.

    Raises:
        ValueError: If `blocks` is empty or `num_classes` is negative.
    """

    def __init__(
        self,
        blocks: Sequence[InvertedResidualSpec],
        last_channels: int,
        num_classes: int = FULL_CLASSES,
        norm_layer: NormLayer | None = None,
        dropout: float = 0.2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not blocks:
            raise ValueError("blocks is empty: expected at least one InvertedResidualSpec")
        self.config: ModelConfig | None = None
        self.num_classes = check_classes(num_classes)
        norm = norm_layer or partial(nn.BatchNorm2d, eps=_EPS, momentum=_MOMENTUM)
        conv_norm_act = partial(ConvNormAct, norm_layer=norm, activation=nn.Hardswish)
        last = blocks[-1].out_channels
        self.features = nn.Sequential(
            conv_norm_act(in_channels, blocks[0].in_channels, kernel_size=3, stride=2),
            *(InvertedResidual(spec, norm) for spec in blocks),
            conv_norm_act(last, 6 * last, kernel_size=1),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier: nn.Module = nn.Sequential(
            nn.Linear(6 * last, last_channels),
            nn.Hardswish(inplace=True),
            nn.Dropout(p=dropout, inplace=True),
            nn.Linear(last_channels, self.num_classes or FULL_CLASSES),
        )
        self._initialise()
        if self.num_classes == 0:
            # Remove it only now, so that the features get the same initial weights as in a classifier.
            self.classifier = nn.Identity()

    def _initialise(self) -> None:
        if next(self.parameters()).is_meta:
            return  # the meta device has no values
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
        """Compute class logits of an image.

        Args:
            x: Batch of shape (N, in_channels, H, W), floating point.

        Returns:
            Logits of shape (N, num_classes), or pooled features if `num_classes` is 0.
        """
        x = self.features(x)  # (N, 6 * last, H/32, W/32), H/16 if dilated
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(x), 1))
        return logits


# in, kernel, expanded, out, squeeze-excitation, hardswish, stride
_Row = tuple[int, int, int, int, bool, bool, int]


def large_blocks(*, reduced_tail: bool = False, width_mult: float = 1.0) -> list[InvertedResidualSpec]:
    """Return the blocks of MobileNetV3-Large, table 1 of the paper.

    Args:
        reduced_tail: Whether to halve the channels of the last stage.
        width_mult: Multiplier for all channel counts.

    Returns:
        The parameters of the blocks, in order.
    """
    tail = 2 if reduced_tail else 1
    rows: list[_Row] = [
        (16, 3, 16, 16, False, False, 1),
        (16, 3, 64, 24, False, False, 2),  # C1
        (24, 3, 72, 24, False, False, 1),
        (24, 5, 72, 40, True, False, 2),  # C2
        (40, 5, 120, 40, True, False, 1),
        (40, 5, 120, 40, True, False, 1),
        (40, 3, 240, 80, False, True, 2),  # C3
        (80, 3, 200, 80, False, True, 1),
        (80, 3, 184, 80, False, True, 1),
        (80, 3, 184, 80, False, True, 1),
        (80, 3, 480, 112, True, True, 1),
        (112, 3, 672, 112, True, True, 1),
        (112, 5, 672, 160 // tail, True, True, 2),  # C4
        (160 // tail, 5, 960 // tail, 160 // tail, True, True, 1),
        (160 // tail, 5, 960 // tail, 160 // tail, True, True, 1),
    ]
    return [_spec(row, width_mult) for row in rows]


def small_blocks(*, reduced_tail: bool = False, width_mult: float = 1.0) -> list[InvertedResidualSpec]:
    """Return the blocks of MobileNetV3-Small, table 2 of the paper.

    Args:
        reduced_tail: Whether to halve the channels of the last stage.
        width_mult: Multiplier for all channel counts.

    Returns:
        The parameters of the blocks, in order.
    """
    tail = 2 if reduced_tail else 1
    rows: list[_Row] = [
        (16, 3, 16, 16, True, False, 2),  # C1
        (16, 3, 72, 24, False, False, 2),  # C2
        (24, 3, 88, 24, False, False, 1),
        (24, 5, 96, 40, True, True, 2),  # C3
        (40, 5, 240, 40, True, True, 1),
        (40, 5, 240, 40, True, True, 1),
        (40, 5, 120, 48, True, True, 1),
        (48, 5, 144, 48, True, True, 1),
        (48, 5, 288, 96 // tail, True, True, 2),  # C4
        (96 // tail, 5, 576 // tail, 96 // tail, True, True, 1),
        (96 // tail, 5, 576 // tail, 96 // tail, True, True, 1),
    ]
    return [_spec(row, width_mult) for row in rows]


def _spec(row: _Row, width_mult: float) -> InvertedResidualSpec:
    in_channels, kernel_size, expanded, out_channels, squeeze_excitation, hardswish, stride = row
    return InvertedResidualSpec(
        in_channels=round_channels(in_channels * width_mult),
        kernel_size=kernel_size,
        expanded_channels=round_channels(expanded * width_mult),
        out_channels=round_channels(out_channels * width_mult),
        squeeze_excitation=squeeze_excitation,
        activation="hardswish" if hardswish else "relu",
        stride=stride,
    )


def dilate(
    blocks: Sequence[InvertedResidualSpec], output_stride: int, first_block_dilation: str = "same"
) -> list[InvertedResidualSpec]:
    """Replace strides with dilation once the total stride would exceed `output_stride`.

    Section 6.4 of the paper uses output stride 16 for segmentation.

    Args:
        blocks: Parameters of the blocks with their published strides.
        output_stride: Largest total stride.
        first_block_dilation: See `segnets.options.OPTIONS`.

    Returns:
        The parameters of the blocks, with strides and dilations replaced.
    """
    result, stride, dilation = [], 2, 1  # the convolution before the blocks has stride 2
    for spec in blocks:
        removed = stride * spec.stride > output_stride
        before, dilation = dilation, dilation * spec.stride if removed else dilation
        stride = stride if removed else stride * spec.stride
        own = before if removed and first_block_dilation == "previous" else dilation
        result.append(replace(spec, dilation=own, stride_removed=removed))
    return result


@dataclass(frozen=True)
class MobileNetV3Spec:
    """Description of one MobileNetV3; see `segnets.backbones.BackboneSpec`.

    Calling it builds the classifier. It takes the options of `MobileNetV3` as keywords, and `dilated` (output stride
    16), `reduced_tail` and `width_mult`.

    Attributes:
        name: Name of the network.
        title: Human-readable name.
        blocks: Function that returns the parameters of the blocks.
        last_channels: Channels of the classifier's hidden layer.
    """

    name: str
    title: str
    blocks: Callable[..., list[InvertedResidualSpec]]
    last_channels: int

    output_stride = 16
    norm_momentum = _MOMENTUM
    features_prefix = "features."

    @property
    def geometry(self) -> Mapping[str, JSON]:
        """Default options of a classifier that its tensors do not show."""
        return {"norm_eps": _EPS, "dilated": False}

    def __call__(
        self, *, dilated: bool = False, reduced_tail: bool = False, width_mult: float = 1.0, **options: Any
    ) -> MobileNetV3:
        """Build the classifier."""
        plain = dict(options)
        norm = classifier_norm(plain, eps=_EPS, momentum=_MOMENTUM)
        if "in_channels" in plain:
            check_values({"in_channels": plain["in_channels"]})
        blocks = self.blocks(reduced_tail=reduced_tail, width_mult=width_mult)
        last = round_channels((self.last_channels // 2 if reduced_tail else self.last_channels) * width_mult)
        model = MobileNetV3(dilate(blocks, 16) if dilated else blocks, last, norm_layer=norm, **plain)
        shape: dict[str, Any] = {"dilated": dilated or None, "reduced_tail": reduced_tail or None}
        shape["width_mult"] = None if width_mult == 1.0 else width_mult
        model.config = classifier_config(self.name, model.num_classes, {**options, **shape})
        return model

    def defaults(self, given: Mapping[str, Any], output_stride: int) -> dict[str, JSON]:
        """Return the options that apply; see `BackboneSpec.defaults`."""
        stride = given.get("output_stride", max(output_stride, self.output_stride))
        options: dict[str, JSON] = {
            "in_channels": 3,
            "output_stride": stride,
            "norm_layer": "batch",
            "norm_eps": _EPS,
        }
        if stride < 32:
            options["first_block_dilation"] = "same"
        return options

    def stages(self, options: Mapping[str, Any]) -> Stages:  # noqa: ARG002
        """Return the feature maps; see `BackboneSpec.stages`."""
        blocks, stride = self.blocks(), 2
        stages: list[Stage] = []
        for i, block in enumerate(blocks, start=1):
            stride *= block.stride
            stages.append(Stage(str(i), block.out_channels, stride))
        out = Stage(str(len(blocks) + 1), 6 * blocks[-1].out_channels, stride)
        # torchvision's auxiliary classifier reads the first block of stride 8, not the last one.
        aux = next(stage for stage in stages if stage.stride == 8)
        return Stages((*stages, out), aux, out)

    def unused_prefixes(self, options: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG002
        """Return the prefixes of tensors outside the features; see `BackboneSpec.unused_prefixes`."""
        return ("classifier.",)

    def build(self, options: Mapping[str, Any], norm_layer: NormLayer) -> nn.Module:
        """Build the backbone; see `BackboneSpec.build`."""
        blocks = dilate(self.blocks(), options["output_stride"], options.get("first_block_dilation", "same"))
        model = MobileNetV3(blocks, self.last_channels, norm_layer=norm_layer, in_channels=options["in_channels"])
        return model.features


mobilenet_v3_large = MobileNetV3Spec("mobilenet_v3_large", "MobileNetV3-Large", large_blocks, 1280)
mobilenet_v3_small = MobileNetV3Spec("mobilenet_v3_small", "MobileNetV3-Small", small_blocks, 1024)
