"""What a network costs: its parameters, its multiply-adds at an image size, and how much it shrinks the image.

Counted on the meta device, where tensors have shapes and no values: in a fraction of a second, without memory, for a
network that would not fit into this machine.
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

# A power of two, so that the feature map of every output stride has a whole number of pixels: of 520 pixels and output
# stride 16 there are 33, which looks like 15.76.
_MEASURED_SIDE = 256
_LARGEST_SIDE = 1 << 20


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    parameters: numbers that can be learnt, those of an auxiliary classifier included; no buffers.
    multiply_adds: of all convolutions and matrix products for one image in eval mode, an auxiliary classifier
    included; 1e9 of them are one GMAC, which torchvision publishes as GFLOPS. Norms, activations, pooling and resizing
    are not counted.
    output_stride: by how much the last feature map of the backbone is smaller than the image, measured on one of
    256x256 pixels.
    """

    parameters: int
    multiply_adds: int
    output_stride: int


def cost(model: SegmentationModel | str, height: int = 520, width: int = 520, **options: Unpack[Options]) -> Cost:
    """Count what a network costs for one image of height x width pixels. Nothing is computed, a model is not changed.
    Forward hooks of a model are called, with tensors that have no values.

    model: a network, or the name of one (`segnets.list_models`), which is then built with `options`.

    Raises ValueError for a size that no image has and for an unknown name; TypeError for something that is neither a
    network nor a name, and for options beside a network, which has its own already; otherwise what the builder raises.
    """
    for name, side in (("height", height), ("width", width)):
        if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= _LARGEST_SIDE:
            raise ValueError(f"{name}={side!r}: expected a whole number of pixels, 1 to {_LARGEST_SIDE:,}")
    network = _described(model, options).eval()
    parameters = sum(each.numel() for each in network.parameters())
    _leave_out_norms(network)
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
    """The network on the meta device, as one of its own."""
    if isinstance(model, str):
        return build_described(model, find_builder(model).resolve(options))
    if not isinstance(model, SegmentationModel):
        raise TypeError(f"model: expected a SegmentationModel or the name of one, got {type(model).__name__}")
    if options:
        raise TypeError(f"{', '.join(options)}: a network that is built has its options already; give its name")
    # A copy in which tensors without values stand for the real ones: deepcopy asks this table first.
    stand_ins: dict[int, object] = {
        id(each): nn.Parameter(each.detach().to("meta"), requires_grad=False) for each in model.parameters()
    }
    stand_ins.update({id(each): each.to("meta") for each in model.buffers()})
    return copy.deepcopy(model, stand_ins)


def _leave_out_norms(network: nn.Module) -> None:
    """Norms count nothing and keep every shape, and on the meta device they take three quarters of the time."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, FrozenBatchNorm2d | nn.GroupNorm) or is_batch_norm(child):
                setattr(parent, name, nn.Identity())
