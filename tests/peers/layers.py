"""Settings of a network's layers, to compare two networks without running them."""

from __future__ import annotations

import re

from torch import nn

from tests.peers.compare import Rules


def layers(network: nn.Module, rules: Rules | None = None) -> dict[str, tuple[object, ...]]:
    """Return the settings of convolutions and norms by name, renamed by `rules`."""
    found: dict[str, tuple[object, ...]] = {}
    for name, layer in network.named_modules():
        if rules is not None:
            pattern = next((pattern for pattern in rules if re.match(pattern, f"{name}.")), None)
            new = rules[pattern] if pattern is not None else None
            name = re.sub(f"^{pattern}", new, f"{name}.")[:-1] if new is not None else ""
        if isinstance(layer, nn.Conv2d) and name:
            dilation = layer.dilation if layer.kernel_size != (1, 1) else (1, 1)  # has no effect on one pixel
            found[name] = (layer.kernel_size, layer.stride, layer.padding, dilation, layer.groups)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and name:
            found[name] = (layer.eps,)
        elif isinstance(layer, nn.GroupNorm) and name:
            found[name] = (layer.num_groups, layer.eps)
    return found
