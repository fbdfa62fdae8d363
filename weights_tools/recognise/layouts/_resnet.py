"""Identify ResNets by names and shapes: depth, width, groups and variants.

Source: torchvision 0.28 models/resnet.py for the table; timm 1.0 models/resnet.py for the variants.
"""

from __future__ import annotations

from segnets.card import JSON
from weights_tools.recognise.layouts.base import Tensors

# (bottleneck blocks, blocks per stage, channels of the first 3x3 convolution, its groups) -> name in torchvision.
RESNETS: dict[tuple[bool, tuple[int, ...], int, int], str] = {
    (False, (2, 2, 2, 2), 64, 1): "resnet18",
    (False, (3, 4, 6, 3), 64, 1): "resnet34",
    (True, (3, 4, 6, 3), 64, 1): "resnet50",
    (True, (3, 4, 23, 3), 64, 1): "resnet101",
    (True, (3, 8, 36, 3), 64, 1): "resnet152",
    (True, (3, 4, 6, 3), 128, 32): "resnext50_32x4d",
    (True, (3, 4, 23, 3), 256, 32): "resnext101_32x8d",
    (True, (3, 4, 23, 3), 256, 64): "resnext101_64x4d",
    (True, (3, 4, 6, 3), 128, 1): "wide_resnet50_2",
    (True, (3, 4, 23, 3), 128, 1): "wide_resnet101_2",
}


def identify_resnet(
    tensors: Tensors, prefix: str, *, variants: bool = False, group_norm: bool = False, min_stages: int = 4
) -> tuple[str, str] | None:
    """Identify a ResNet.

    Args:
        tensors: Tensors by their names in torchvision.
        prefix: Prefix of `conv1.weight`.
        variants: Whether to accept the variants that `infer_resnet_options` finds.
        group_norm: Whether the norms are known to be group norms, which have no running statistics.
        min_stages: Number of stages that must be present.

    Returns:
        A pair of torchvision's name of the network and a description of an unsupported variant, one of them ""; or
        None if the tensors are not those of a ResNet.
    """
    first = tensors.get(f"{prefix}layer1.0.conv1.weight")
    second = tensors.get(f"{prefix}layer1.0.conv2.weight")
    if first is None or second is None or len(first.shape) != 4 or len(second.shape) != 4:
        return None
    variant = _unknown_variant(tensors, prefix, group_norm) or ("" if variants else _known_variant(tensors, prefix))
    depths = tuple(_blocks(tensors, f"{prefix}layer{stage}.") for stage in (1, 2, 3, 4))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in tensors
    width = second.shape[0]
    groups = width // second.shape[1] if second.shape[1] else 0
    present = max(stage for stage, blocks in enumerate(depths, start=1) if blocks)
    # Networks that only differ in absent stages count as one.
    names = [
        name
        for (is_bottleneck, every, *rest), name in RESNETS.items()
        if (is_bottleneck, every[:present], rest) == (bottleneck, depths[:present], [width, groups])
    ]
    name = names[0] if names and present >= min_stages else ""
    if name and not variant:
        return name, ""
    if variant:
        return "", f"a {name or 'ResNet'} with {variant}"
    kind = "bottleneck" if bottleneck else "basic"
    return "", f"a ResNet of {'-'.join(map(str, depths))} {kind} blocks, {width} channels wide, {groups} groups"


def _blocks(tensors: Tensors, stage: str) -> int:
    return len({name.removeprefix(stage).split(".")[0] for name in tensors if name.startswith(stage)})


def infer_resnet_options(tensors: Tensors, prefix: str) -> dict[str, JSON]:
    """Return the options that names and shapes determine and that torchvision's ResNets lack."""
    options: dict[str, JSON] = {}
    conv = tensors.get(f"{prefix}conv1.0.weight")
    if conv is not None:
        options["stem"] = "deep"
    else:
        conv = tensors.get(f"{prefix}conv1.weight")
    if conv is not None and len(conv.shape) == 4 and conv.shape[1] != 3:
        options["in_channels"] = conv.shape[1]
    pooled = tensors.get(f"{prefix}layer2.0.downsample.1.weight")
    if pooled is not None and len(pooled.shape) == 4:
        options["downsample"] = "average"
    return options


def _known_variant(tensors: Tensors, prefix: str) -> str:
    """Return a difference from torchvision's networks that is an option of segnets, or ""."""
    options = infer_resnet_options(tensors, prefix)
    if any(f"{prefix}{stem}.0.weight" in tensors for stem in ("conv1", "stem")):
        return "a deep stem of three 3x3 convolutions (ResNet-C, ResNet-D)"
    if "in_channels" in options:
        return f"{options['in_channels']} input channels"
    return "average pooling in its shortcuts (ResNet-D)" if "downsample" in options else ""


def _unknown_variant(tensors: Tensors, prefix: str, group_norm: bool) -> str:
    """Return a difference from torchvision's networks that no layout supports, or ""."""
    if any(".se." in name or ".se_module." in name for name in tensors):
        return "squeeze-and-excitation blocks"
    norm = f"{prefix}layer1.0.bn1."
    if f"{norm}weight" in tensors and f"{norm}running_mean" not in tensors and not group_norm:
        return "group normalisation (--option norm_layer=group if it is timm's), or without batch norm statistics"
    return ""
