"""What a network is made of, for people and programs: head, backbone, depth, width, classes."""

from __future__ import annotations

from segnets.backbones import Bottleneck, MobileNetV3Spec, ResNetSpec
from segnets.card import JSON, ModelConfig
from segnets.registry import BACKBONES, MODELS


def architecture(config: ModelConfig) -> dict[str, JSON]:
    """The parts of a network of segnets.

    head: None for a classifier or a backbone alone. blocks: how many the stages have. width: channels of the first
    3x3 convolution of a ResNet, or of the last feature map of a MobileNetV3. classes: 0 for a backbone alone.
    """
    builder = MODELS.get(config.name)
    kind = BACKBONES[config.name] if builder is None else builder.backbone
    options = config.options
    made: dict[str, JSON] = {
        "head": None if builder is None else builder.head.name,
        "head_width": options.get("head_channels"),
        "backbone": kind.name,
        "classes": options.get("num_classes"),
        "auxiliary_head": options.get("aux_loss", False),
        "in_channels": options.get("in_channels", 3),
    }
    if isinstance(kind, ResNetSpec):
        made["block"] = "bottleneck" if kind.block is Bottleneck else "basic"
        made["blocks"] = list(kind.depths[: _stages(options.get("backbone_stages"))])
        made["width"] = kind.width_per_group * kind.groups
        made["groups"] = kind.groups
    elif isinstance(kind, MobileNetV3Spec):
        made["block"] = "inverted residual"
        made["blocks"] = [len(kind.blocks())]
        made["width"] = 6 * kind.blocks()[-1].out_channels
    return made


def _stages(value: JSON) -> int:
    return value if isinstance(value, int) else 4


def in_words(made: dict[str, JSON]) -> str:
    """One line."""
    blocks = made.get("blocks")
    depth = "-".join(map(str, blocks)) if isinstance(blocks, list) else "?"
    words = [f"{made['backbone']}, {depth} {made.get('block')} blocks, {made.get('width')} wide"]
    if made["head"] is not None:
        auxiliary = "with" if made["auxiliary_head"] else "without"
        words.append(f"{made['head']} head of {made['head_width']} channels, {auxiliary} auxiliary head")
    words.append(f"{made['classes']} classes" if made["classes"] else "no classes: a backbone alone")
    words.append(f"{made['in_channels']} input channels")
    return "; ".join(words)
