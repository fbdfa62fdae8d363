"""Identify MobileNetV3s by names and shapes. Source: torchvision 0.28, models/mobilenetv3.py."""

from __future__ import annotations

from weights_tools.recognise.layouts.base import Tensors

# Name by the index of the last module of the features.
_MOBILENETS = {16: "mobilenet_v3_large", 12: "mobilenet_v3_small"}
# First squeeze-and-excitation gate and its width.
_FIRST_GATES = {"mobilenet_v3_large": ("4.block.2", 24), "mobilenet_v3_small": ("1.block.1", 8)}


def identify_mobilenet(tensors: Tensors, features: str) -> tuple[str, str] | None:
    """Identify a MobileNetV3.

    Args:
        tensors: Tensors by their names in torchvision.
        features: Prefix of the features, for example "features.".

    Returns:
        A pair of torchvision's name of the network and a description of an unsupported variant, one of them ""; or
        None if the tensors are not those of a MobileNetV3.
    """
    if f"{features}1.block.0.0.weight" not in tensors:
        return None
    parts = {name.removeprefix(features).split(".")[0] for name in tensors if name.startswith(features)}
    indices = {int(part) for part in parts if part.isdecimal() and len(part) < 5}
    network = _MOBILENETS.get(max(indices), "")
    stem = tensors.get(f"{features}0.0.weight")
    if not network or stem is None or len(stem.shape) != 4 or (stem.shape[0], *stem.shape[2:]) != (16, 3, 3):
        channels = stem.shape[1] if stem is not None and len(stem.shape) == 4 else "?"
        return "", f"a MobileNetV3 of {len(indices)} parts, {channels} input channels"
    if network == "mobilenet_v3_large":
        last = tensors.get(f"{features}16.0.weight")
        if last is not None and last.shape[:2] != (960, 160):
            return "", f"a reduced or widened MobileNetV3 (last layer {last.shape})"
    gate = tensors.get(f"{features}{_FIRST_GATES[network][0]}.fc1.weight")
    if gate is None:
        return "", f"a {network} without squeeze-and-excitation (minimal)"
    if gate.shape[0] != _FIRST_GATES[network][1]:
        return "", f"a {network} with gates {gate.shape[0]} channels wide (timm's mobilenetv3_rw)"
    return network, ""
