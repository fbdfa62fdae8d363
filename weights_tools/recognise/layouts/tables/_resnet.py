"""Names of a ResNet in projects that use torchvision's names."""

from __future__ import annotations

from weights_tools.recognise.layouts.key_map import KeyMap


def resnet_keys(prefix: str = "") -> KeyMap:
    """Return the names of a ResNet without its classifier, under a prefix such as "encoder."."""
    return {
        **{f"{prefix}{module}": f"backbone.{module}" for module in ("conv1", "bn1")},
        **{f"{prefix}layer{stage}": f"backbone.layer{stage}" for stage in (1, 2, 3, 4)},
    }
