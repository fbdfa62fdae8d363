"""The mean of a whole map, for gates and for branches that see the whole image, in a form that is fast in bfloat16."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class MeanOfMap(nn.Module):
    """As nn.AdaptiveAvgPool2d(1), by a window as large as the map. (N, C, H, W) -> (N, C, 1, 1). Scriptable.

    Of bfloat16, torch's mean makes a copy in float32 and then walks it against the order of channels last: 13 ms for
    2048 channels of 65x65, where a pooling, which sums in float32 too, takes half of one.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, [x.shape[2], x.shape[3]])


def use_windows(model: nn.Module) -> None:
    """Exchange every nn.AdaptiveAvgPool2d of a single cell in `model`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            model.set_submodule(name, MeanOfMap())
