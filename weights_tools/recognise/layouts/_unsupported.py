"""Identify checkpoints that no layout supports by a few tensor names, so that the error can describe the file."""

from __future__ import annotations

import re
from collections.abc import Iterable

from weights_tools._text import join_names, printable
from weights_tools.recognise.layouts.base import Tensors

# Pattern of a tensor name, and the network with such a tensor. The first match wins.
UNSUPPORTED: tuple[tuple[str, str], ...] = (
    (r"lora_[AB](\.|$)", "a LoRA adapter, which is only a change to the weights of another file"),
    (r"decode_head\.sep_bottleneck\.", "a DeepLabV3+ of mmsegmentation"),
    (r"decode_head\.(conv_ups|conv_up_input)\.", "an LR-ASPP of mmsegmentation, which is not torchvision's"),
    (r"decode_head\.lateral_convs\.", "a UPerNet of mmsegmentation"),
    (r"decode_head\.", "a network of mmsegmentation with another head"),
    (r"decoder\.aspp\.0\.", "a DeepLabV3+ of segmentation_models_pytorch"),
    (r"decoder\.(aspp|0\.convs)\.", "a DeepLabV3 of segmentation_models_pytorch"),
    (r"decoder\.fpn_lateral_blocks\.", "a UPerNet of segmentation_models_pytorch"),
    (r"decoder\.psp\.", "a PSPNet of segmentation_models_pytorch"),
    (r"decoder\.(p5|seg_blocks)\.", "an FPN of segmentation_models_pytorch"),
    (r"decoder\.(fpa|gau1)\.", "a PAN of segmentation_models_pytorch"),
    (r"decoder\.center\.top_conv\.", "an MAnet of segmentation_models_pytorch"),
    (r"decoder\.blocks\.x_0_0\.", "a U-Net++ of segmentation_models_pytorch"),
    (r"decoder\.blocks\.\d+\.block\.", "a Linknet of segmentation_models_pytorch"),
    (r"decoder\.mlp_stage\.", "a Segformer of segmentation_models_pytorch"),
    (r"decoder\.blocks\.\d+\.conv1\.0\.", "a U-Net of segmentation_models_pytorch"),
    (r"segmentation_head\.0\.", "a network of segmentation_models_pytorch"),
    (r"classifier\.(project|aspp)\.", "a DeepLabV3+ of VainF/DeepLabV3Plus-Pytorch"),
    (r"classifier\.classifier\.", "a DeepLabV3 of VainF/DeepLabV3Plus-Pytorch"),
    (r"backbone\.(low|high)_level_features\.", "a MobileNet DeepLab of VainF/DeepLabV3Plus-Pytorch"),
    (r"embedder\.embedder\.convolution\.", "a ResNet of transformers"),
    (r"blocks\.0\.0\.conv_dw\.|^conv_stem\.", "a MobileNet or EfficientNet of timm"),
    (r"\.conv\d\.attn\.", "a ResNet of timm with selective kernels"),
    (r"mobilenet_v2\.conv_stem\.", "a MobileNetV2 DeepLab from transformers, which torchvision does not have"),
    (r"roi_heads\.|\.rpn\.|^rpn\.", "a detection network"),
    (r"features\.1\.conv\.0\.0\.", "a MobileNetV2"),
    (r"\.attn\.|\.self_attention\.|attention\.", "a transformer network"),
    (r"(^|\.)denseblock1\.", "a DenseNet"),
    (r"^features\.\d+\.(weight|bias)$", "a VGG or AlexNet"),
)


def name_unsupported(names: Iterable[str]) -> str:
    """Return the network with such tensor names, or ""."""
    every = list(names)
    return next((what for pattern, what in UNSUPPORTED if any(re.search(pattern, name) for name in every)), "")


def explain_no_match(tensors: Tensors) -> str:
    """Explain why no layout matches these tensors."""
    names = list(tensors)
    what = name_unsupported(names)
    if what:
        return f"the tensors look like {what}, which is not supported"
    return (
        f"no known network has these {len(names)} tensors, whose names begin with "
        f"{join_names((printable(name) for name in names), 4)}"
    )
