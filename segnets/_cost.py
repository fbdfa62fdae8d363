"""Count a network's parameters and multiply-adds, and measure its output stride.

Everything runs on the meta device, where tensors have shapes but no values. It takes a fraction of a second and almost
no memory, even for networks larger than the machine's memory.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segnets.layers import FrozenBatchNorm2d, is_batch_norm
from segnets.model import SegmentationModel
from segnets.registry import build_described, find_builder

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from segnets.options import Options

# A power of two is divisible by every output stride. 520 pixels at output stride 16 give 33, which looks like 15.76.
_MEASURED_SIDE = 256
_MAX_SIDE = 1 << 20


@dataclass(frozen=True)
class Cost:
    """Computational cost of a network.

    Attributes:
        parameters: Number of learnable values, including those of an auxiliary classifier, excluding buffers.
        multiply_adds: Multiply-adds of all convolutions and matrix products for one image in eval mode, including an
            auxiliary classifier. 1e9 of them are one GMAC, which torchvision publishes as GFLOPS. Norms, activations,
            pooling and resizing are not counted.
        output_stride: Ratio of the image size to the size of the backbone's last feature map, measured at 256x256
            pixels.
    """

    parameters: int
    multiply_adds: int
    output_stride: int


def cost(model: SegmentationModel | str, height: int = 520, width: int = 520, **options: Unpack[Options]) -> Cost:
    """Count the parameters and multiply-adds of a network for one image.

    The model is copied to the meta device and left unchanged. Its forward hooks are called with meta tensors.

    Args:
        model: A network, or the name of one (`segnets.list_models`) to build with `options`.
        height: Height of the image in pixels, 1 to 2**20.
        width: Width of the image in pixels, 1 to 2**20.
        **options: Options of the builder (`segnets.options.Options`), allowed only with a name.

    Returns:
        The cost of one forward pass in eval mode.

    Raises:
        ValueError: If the size is out of range, the name is unknown, or the builder rejects an option.
        TypeError: If `model` is neither a network nor a name, or `options` are given with a network.
    """
    for name, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= _MAX_SIDE:
            raise ValueError(f"{name}={side!r}: expected a whole number of pixels, 1 to {_MAX_SIDE:,}")
    network = _described(model, options).eval()
    parameters = sum(each.numel() for each in network.parameters())
    _remove_norms(network)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))

    def image(rows: int, columns: int) -> Tensor:
        return torch.empty(1, first.in_channels, rows, columns, dtype=first.weight.dtype, device="meta")

    with torch.no_grad():
        *_, last = network.get_submodule("backbone")(image(_MEASURED_SIDE, _MEASURED_SIDE)).values()
        with FlopCounterMode(display=False) as counter:
            network(image(height, width))
    return Cost(
        parameters=parameters,
        multiply_adds=counter.get_total_flops() // 2,  # a multiplication and an addition are two operations
        output_stride=_MEASURED_SIDE // int(last.shape[2]),
    )


def _described(model: SegmentationModel | str, options: Options) -> nn.Module:
    """Return a copy of the network on the meta device."""
    if isinstance(model, str):
        return build_described(model, find_builder(model).resolve(options))
    if not isinstance(model, SegmentationModel):
        raise TypeError(f"model: expected a SegmentationModel or the name of one, got {type(model).__name__}")
    if options:
        raise TypeError(
            f"{', '.join(options)}: a built network already has its options. Pass the name of a network to set them."
        )
    # deepcopy looks up every tensor in this memo first, and uses the meta tensor instead of copying.
    memo: dict[int, object] = {
        id(each): nn.Parameter(each.detach().to("meta"), requires_grad=False) for each in model.parameters()
    }
    memo.update({id(each): each.to("meta") for each in model.buffers()})
    return copy.deepcopy(model, memo)


def _remove_norms(network: nn.Module) -> None:
    """Replace norms with identities: they are not counted, but take three quarters of the time on the meta device."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, FrozenBatchNorm2d | nn.GroupNorm) or is_batch_norm(child):
                setattr(parent, name, nn.Identity())
