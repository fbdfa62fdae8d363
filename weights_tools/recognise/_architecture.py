"""Describe the parts of a network: head, backbone, depth, width and classes."""

from __future__ import annotations

from segnets.backbones import Bottleneck, MobileNetV3Spec, ResNetSpec
from segnets.card import JSON, ModelConfig
from segnets.registry import BACKBONES, MODELS


def describe_architecture(config: ModelConfig) -> dict[str, JSON]:
    """Return the parts of a network that segnets supports.

    Args:
        config: Network to describe.

    Returns:
        A dictionary for JSON. `head` is None for a classifier or a backbone alone. `blocks` has the number of blocks
        in each stage. `width` is the number of channels of a ResNet's first 3x3 convolution, or of a MobileNetV3's
        last feature map. `classes` is 0 for a backbone alone.
    """
    builder = MODELS.get(config.name)
    backbone = BACKBONES[config.name] if builder is None else builder.backbone
    options = config.options
    parts: dict[str, JSON] = {
        "head": None if builder is None else builder.head.name,
        "head_width": options.get("head_channels"),
        "backbone": backbone.name,
        "classes": options.get("num_classes"),
        "auxiliary_head": options.get("aux_loss", False),
        "in_channels": options.get("in_channels", 3),
    }
    if isinstance(backbone, ResNetSpec):
        stages = options.get("backbone_stages")
        parts["block"] = "bottleneck" if backbone.block is Bottleneck else "basic"
        parts["blocks"] = list(backbone.depths[: stages if isinstance(stages, int) else 4])
        parts["width"] = backbone.width_per_group * backbone.groups
        parts["groups"] = backbone.groups
    elif isinstance(backbone, MobileNetV3Spec):
        parts["block"] = "inverted residual"
        parts["blocks"] = [len(backbone.blocks())]
        parts["width"] = 6 * backbone.blocks()[-1].out_channels
    return parts


def format_architecture(parts: dict[str, JSON]) -> str:
    """Format the result of `describe_architecture` as one line."""
    blocks = parts.get("blocks")
    depth = "-".join(map(str, blocks)) if isinstance(blocks, list) else "?"
    words = [f"{parts['backbone']}, {depth} {parts.get('block')} blocks, {parts.get('width')} wide"]
    if parts["head"] is not None:
        auxiliary = "with" if parts["auxiliary_head"] else "without"
        words.append(f"{parts['head']} head of {parts['head_width']} channels, {auxiliary} auxiliary head")
    words.append(f"{parts['classes']} classes" if parts["classes"] else "no classes: a backbone alone")
    words.append(f"{parts['in_channels']} input channels")
    return "; ".join(words)
