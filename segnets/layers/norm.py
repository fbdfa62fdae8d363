"""The normalisation layers that a network can be built with, and what they ask of a batch.

Ioffe and Szegedy 2015, batch normalisation, https://arxiv.org/abs/1502.03167
Wu and He 2018, group normalisation, https://arxiv.org/abs/1803.08494
`FrozenBatchNorm2d` behaves as torchvision.ops.FrozenBatchNorm2d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

NormLayer = Callable[[int], nn.Module]

NORM_LAYERS = ("batch", "sync", "frozen", "group")
_MOST_GROUPS = 32


class FrozenBatchNorm2d(nn.Module):
    """Batch norm as fixed numbers: all four tensors are buffers, nothing is learnt and no statistics move.

    (N, num_features, H, W) -> the same shape. Reads the state dict of a BatchNorm2d, whose counter it drops.
    """

    # What mypy reads in place of annotations, which TorchScript would try to resolve.
    if TYPE_CHECKING:
        weight: Tensor
        bias: Tensor
        running_mean: Tensor
        running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # from torch's own copy, made for changes like this
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        # The order of these operations is torchvision's; another gives other last bits.
        weight = self.weight.reshape(1, -1, 1, 1)
        bias = self.bias.reshape(1, -1, 1, 1)
        running_var = self.running_var.reshape(1, -1, 1, 1)
        running_mean = self.running_mean.reshape(1, -1, 1, 1)
        scale = weight * (running_var + self.eps).rsqrt()
        result: Tensor = x * scale + (bias - running_mean * scale)
        return result


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """torch's SyncBatchNorm: statistics over all processes in training. In one process it is plain batch norm.

    TorchScript, which can't compile the original, gets plain batch norm.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            return super().forward(x)
        assert self.momentum is not None  # torch's hints allow it; `norm_layer` gives a number
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


def norm_layer(kind: str, *, eps: float = 1e-5, momentum: float = 0.1) -> NormLayer:
    """What makes a layer of this kind for a number of channels.

    kind: "batch"; "sync" (SyncBatchNorm); "frozen" (fixed numbers); "group" (32 groups, or as many as leave two
    channels or more in each, so that a feature map of one pixel can be normalised).
    eps: added to the variance; momentum: weight of a new batch in the running statistics.
    Raises ValueError for another kind.
    """
    makers: dict[str, NormLayer] = {
        "batch": partial(nn.BatchNorm2d, eps=eps, momentum=momentum),
        "sync": partial(SyncBatchNorm2d, eps=eps, momentum=momentum),
        "frozen": partial(FrozenBatchNorm2d, eps=eps),
        "group": partial(_group_norm, eps=eps),
    }
    if kind not in makers:
        raise ValueError(f"norm_layer={kind!r}: expected one of {', '.join(map(repr, NORM_LAYERS))}")
    return makers[kind]


def _group_norm(channels: int, eps: float) -> nn.GroupNorm:
    if channels < 2:
        raise ValueError("norm_layer='group': a layer of one channel has no group of two or more; widen it")
    groups = math.gcd(_MOST_GROUPS, channels // 2) if channels % 2 == 0 else 1
    return nn.GroupNorm(groups, channels, eps=eps)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the layer normalises by the batch in training and by running statistics in eval mode."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def as_batch_norm(module: nn.Module) -> nn.Module:
    """A plain BatchNorm2d that computes in eval mode what a synchronised or frozen one does; others as they are."""
    if not isinstance(module, nn.SyncBatchNorm | FrozenBatchNorm2d):
        return module
    weight = module.weight
    momentum = module.momentum if isinstance(module, nn.SyncBatchNorm) else 0.1
    plain = nn.BatchNorm2d(len(weight), eps=module.eps, momentum=momentum, device=weight.device, dtype=weight.dtype)
    plain.load_state_dict({**plain.state_dict(), **module.state_dict()})
    return plain.train(module.training)


def needs_a_batch(module: nn.Module) -> bool:
    """Whether the layer can't be trained on one value per channel. A synchronised one sees other processes' too."""
    if isinstance(module, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        return dist.get_world_size() == 1
    return is_batch_norm(module)


def check_batch_of_pooled(x: Tensor, branch: str) -> None:
    """Raise ValueError if x, whose pixels will be averaged to one, is a single image: batch norm can't train on it."""
    if x.shape[0] == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got a batch of one image: {branch} has one value "
            "per channel and image, and batch norm can't normalise a single one. Train with a batch of 2 or more "
            "(DataLoader(drop_last=True) drops a last batch of one), or build the model with norm_eval=True, "
            "pool_norm=False or head_norm_layer='group'"
        )
