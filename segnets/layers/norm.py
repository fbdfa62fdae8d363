"""Norm layers, and their requirements on the batch size.

Ioffe and Szegedy 2015, batch normalisation, https://arxiv.org/abs/1502.03167
Wu and He 2018, group normalisation, https://arxiv.org/abs/1803.08494
`FrozenBatchNorm2d` behaves like torchvision.ops.FrozenBatchNorm2d.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from segnets.layers.tracing import is_symbolic

NormLayer = Callable[[int], nn.Module]

NORM_LAYERS = ("batch", "sync", "frozen", "group")
_MAX_GROUPS = 32


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed affine parameters and statistics, all of them buffers.

    (N, num_features, H, W) -> the same shape. Loads the state dict of a BatchNorm2d and ignores its
    `num_batches_tracked`.

    Args:
        num_features: Number of input channels.
        eps: Value added to the variance.
    """

    # For mypy only: TorchScript would try to resolve annotations in the class body.
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
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # torch passes a copy of the dictionary
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the fixed statistics."""
        # Keep torchvision's order of operations: a different order changes the last bits.
        weight = self.weight.reshape(1, -1, 1, 1)
        bias = self.bias.reshape(1, -1, 1, 1)
        running_var = self.running_var.reshape(1, -1, 1, 1)
        running_mean = self.running_mean.reshape(1, -1, 1, 1)
        scale = weight * (running_var + self.eps).rsqrt()
        result: Tensor = x * scale + (bias - running_mean * scale)
        return result


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """SyncBatchNorm that TorchScript can compile (as plain batch norm).

    (N, num_features, H, W) -> the same shape. In training, eager mode uses the statistics across all processes. A
    graph of torch.fx calls this module, like any norm of torch.nn.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in TorchScript, with plain batch norm."""
        if not torch.jit.is_scripting():
            if is_symbolic(x):
                tracer: Any = x.tracer  # type: ignore[attr-defined]
                step: Tensor = tracer.create_proxy("call_module", tracer.path_of_module(self), (x,), {})
                return step
            return super().forward(x)
        assert self.momentum is not None  # `norm_layer` always sets it
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


def norm_layer(name: str, *, eps: float = 1e-5, momentum: float = 0.1) -> NormLayer:
    """Return a factory that builds a norm layer for a given number of channels.

    Args:
        name: "batch"; "sync" (SyncBatchNorm); "frozen" (fixed parameters and statistics); or "group" (32 groups, or
            fewer so that each has at least two channels and a feature map of one pixel can be normalised).
        eps: Value added to the variance.
        momentum: Weight of a new batch in the running statistics.

    Returns:
        The factory. A "group" factory raises ValueError for a single channel.

    Raises:
        ValueError: If `name` is unknown.
    """
    factories: dict[str, NormLayer] = {
        "batch": partial(nn.BatchNorm2d, eps=eps, momentum=momentum),
        "sync": partial(SyncBatchNorm2d, eps=eps, momentum=momentum),
        "frozen": partial(FrozenBatchNorm2d, eps=eps),
        "group": partial(_group_norm, eps=eps),
    }
    if name not in factories:
        raise ValueError(f"norm_layer={name!r}: expected one of {', '.join(map(repr, NORM_LAYERS))}")
    return factories[name]


def _group_norm(channels: int, eps: float) -> nn.GroupNorm:
    if channels < 2:
        raise ValueError("norm_layer='group': a layer of one channel has no group of two or more; use more channels")
    groups = math.gcd(_MAX_GROUPS, channels // 2) if channels % 2 == 0 else 1
    return nn.GroupNorm(groups, channels, eps=eps)


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether the layer uses batch statistics in training and running statistics in eval mode."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def as_batch_norm(module: nn.Module) -> nn.Module:
    """Convert a synchronised or frozen batch norm to a BatchNorm2d with the same output in eval mode.

    Args:
        module: Any layer.

    Returns:
        The new BatchNorm2d, or `module` itself if it is another layer.
    """
    if not isinstance(module, nn.SyncBatchNorm | FrozenBatchNorm2d):
        return module
    weight = module.weight
    momentum = module.momentum if isinstance(module, nn.SyncBatchNorm) else 0.1
    plain = nn.BatchNorm2d(len(weight), eps=module.eps, momentum=momentum, device=weight.device, dtype=weight.dtype)
    plain.load_state_dict({**plain.state_dict(), **module.state_dict()})
    return plain.train(module.training)


def needs_several_values(module: nn.Module) -> bool:
    """Return whether the layer can't be trained on one value per channel.

    A SyncBatchNorm can, if other processes contribute values.
    """
    if isinstance(module, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        return dist.get_world_size() == 1
    return is_batch_norm(module)


def check_pooled_batch(x: Tensor, branch: str) -> Tensor:
    """Return `x` if batch norm can be trained on it after pooling to one value per channel and image.

    Args:
        x: Batch of shape (N, C, H, W) before pooling.
        branch: Name of the pooled branch for the message.

    Returns:
        The batch itself.

    Raises:
        ValueError: If `x` is a single image.
    """
    if x.shape[0] == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got a batch of one image: {branch} has one value "
            "per channel and image, and batch norm can't normalise a single one. Train with a batch of 2 or more "
            "(DataLoader(drop_last=True) drops a last batch of one), or build the model with norm_eval=True, "
            "pool_norm=False or head_norm_layer='group'"
        )
    return x
