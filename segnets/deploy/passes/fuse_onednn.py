"""Networks for CPUs: convolution, bias, activation and residual addition in one call of LibTorch's oneDNN operators.

What the compiler of `torch.compile` calls on CPUs (`mkldnn::_convolution_pointwise`), an archive can call as well. The
weights are laid out for the processor once, when the file is loaded, and images run with channels last in memory.
It computes the same function in another order, so that last bits differ: done on a copy, for an export, which compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from segnets.backbones import BasicBlock, Bottleneck
from segnets.deploy.passes._graph import convolution_inputs, followers, last_readers, names_of
from segnets.deploy.passes.aspp import PooledApart
from segnets.deploy.passes.convolutions import Pieces, pieces_of
from segnets.deploy.passes.lraspp import GateInPlace
from segnets.deploy.passes.pooling import MeanByWindow, use_means
from segnets.deploy.passes.residual import Copy, FusedResidual, is_plain, plain_convolutions, two
from segnets.deploy.passes.resize import UpsampleLines
from segnets.deploy.passes.winograd import WinogradConv, suits
from segnets.deploy.passes.wrap import DeployedInGroups, checked_parts
from segnets.layers import InvertedResidual, PooledBranch, SqueezeExcitation

# The names of oneDNN's post-operations.
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "swish",
    nn.Tanh: "tanh",
}

# What may put its result where its input was.
_OVERWRITING = (Bottleneck, BasicBlock, InvertedResidual, SqueezeExcitation)

_State = tuple[Tensor, Tensor, list[int], list[int], list[int], int, list[int], str, bool]


class PackedConv(nn.Module):
    """What a fused convolution is made of.

    input_size: (N, in, H, W) that the weight is laid out for. An input of another size may want another layout, which
    then is made in every call: right, but slower.
    activation: "none" or a name of `_ACTIVATIONS`. A loaded one holds its weight in an opaque layout of this processor
    and can't be saved again.
    """

    def __init__(self, convolution: nn.Conv2d, activation: str, dtype: torch.dtype, input_size: Sequence[int]) -> None:
        super().__init__()
        bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias.detach()
        # Attributes and not parameters: what loading sets in their place is no parameter either.
        self.weight = convolution.weight.detach().to(dtype).contiguous()
        self.bias = bias.to(dtype)
        self.padding = two(convolution.padding)
        self.stride = two(convolution.stride)
        self.dilation = two(convolution.dilation)
        self.groups = convolution.groups
        self.input_size = list(input_size)
        self.activation = activation
        self.eval()

    @torch.jit.export
    def __getstate__(self) -> _State:
        return (
            self.weight,
            self.bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            self.input_size,
            self.activation,
            self.training,
        )

    @torch.jit.export
    def __setstate__(self, state: _State) -> None:
        self.bias = state[1]
        self.padding = state[2]
        self.stride = state[3]
        self.dilation = state[4]
        self.groups = state[5]
        self.input_size = state[6]
        self.activation = state[7]
        self.training = state[8]
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            state[0], self.padding, self.stride, self.dilation, self.groups, self.input_size
        )


class FusedConv(PackedConv):
    """A convolution with its bias and activation. (N, in, H, W), channels last -> (N, out, H', W'), channels last."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, self.activation, [], ""
        )
        return result


class FusedConvAdd(PackedConv):
    """A convolution to whose result, before the activation, another map of its shape is added; it is overwritten."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        activation: str | None = None
        if self.activation != "none":
            activation = self.activation
        result: Tensor = torch.ops.mkldnn._convolution_pointwise_(
            other,
            x,
            self.weight,
            self.bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            "add",
            1.0,
            activation,
            [],
            "",
        )
        return result


class BroadcastBranch(nn.Module):
    """A branch that pools the whole image: its one value per channel is repeated, where others would upsample it."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.layers(x)  # (N, C, 1, 1)
        spread: Tensor = pooled.expand(-1, -1, x.shape[2], x.shape[3])
        # As the maps that it meets; of mixed layouts torch.cat makes the slower one.
        return spread.contiguous(memory_format=torch.channels_last)


class FusedPooledApart(nn.Module):
    """As PooledApart, whose projection adds to what the pooling branch says. (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, aspp: PooledApart, projection: nn.Module) -> None:
        super().__init__()
        self.maps = aspp.maps
        self.pooled = BroadcastBranch(aspp.pooled)
        self.projection = projection

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.projection(self.maps(x), self.pooled(x))
        return result


def fuse(model: nn.Module, dtype: torch.dtype, image_size: tuple[int, int]) -> DeployedInGroups:
    """A network of the parts of an optimized model (`segnets.deploy.passes.simplify`), which are changed.

    image_size: (height, width) of the images that it should be fastest on.
    dtype: torch.float32, or torch.bfloat16 for everything between the image and the scores.
    Raises ExportError for what is no SegmentationModel.
    """
    model = checked_parts(model, "target='cpu'")
    pairs = dict(_convolutions_with_activation(model))
    sizes = convolution_inputs(model, image_size)  # of layers that run; others stay as they are
    last = last_readers(model, {module for module in model.modules() if isinstance(module, _OVERWRITING)})
    if dtype == torch.bfloat16:
        use_means(model, MeanByWindow)
    for name, module in list(model.named_modules()):
        if isinstance(module, SqueezeExcitation) and module in last:
            model.set_submodule(name, GateInPlace(module))
    for name, module in list(model.named_modules()):
        if (block := _fused_block(module, dtype, sizes, keeps_input=module not in last)) is not None:
            model.set_submodule(name, block)
    for name, module in list(model.named_modules()):
        if isinstance(module, PooledBranch) and module.bins == 1:
            model.set_submodule(name, BroadcastBranch(nn.Sequential(*module)))
        elif isinstance(module, PooledApart) and type(module.activation) is nn.ReLU and module.projection in sizes:
            projection = _fused_with_addition(module.projection, "relu", dtype, sizes[module.projection])
            model.set_submodule(name, FusedPooledApart(module, projection))
    for activation in pairs.values():
        for name in names_of(model, activation):
            model.set_submodule(name, nn.Identity())
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and is_plain(module) and module in sizes:
            kind = _ACTIVATIONS[type(pairs[module])] if module in pairs else "none"
            model.set_submodule(name, _fused(module, kind, dtype, sizes[module]))
    return DeployedInGroups(model, dtype, UpsampleLines)


def _fused_block(
    block: nn.Module, dtype: torch.dtype, sizes: Mapping[nn.Module, Sequence[int]], *, keeps_input: bool
) -> FusedResidual | None:
    """The same block with its addition inside of its last convolution, or None for what is no such block.

    keeps_input: whether others read it afterwards; else the result may take its place in memory.
    """
    unchanged = Copy() if keeps_input else nn.Identity()
    if (convolutions := plain_convolutions(block)) and convolutions[0] in sizes:
        assert isinstance(block, Bottleneck | BasicBlock)
        body = nn.Sequential(*(_fused(each, "relu", dtype, sizes[each]) for each in convolutions[:-1]))
        last = _fused_with_addition(convolutions[-1], "relu", dtype, sizes[convolutions[-1]])
        return FusedResidual(body, last, block.downsample or unchanged)
    if isinstance(block, InvertedResidual) and block.has_residual:
        *layers, projection = block.block
        convolution, norm = projection.children()
        if isinstance(norm, nn.Identity) and isinstance(convolution, nn.Conv2d) and convolution in sizes:
            last = _fused_with_addition(convolution, "none", dtype, sizes[convolution])
            return FusedResidual(nn.Sequential(*layers), last, unchanged)
    return None


def _fused(convolution: nn.Conv2d, activation: str, dtype: torch.dtype, input_size: Sequence[int]) -> nn.Module:
    """The fastest way to compute a convolution and the activation behind it."""
    if _is_winograds(convolution, activation, dtype, input_size):
        return WinogradConv(convolution, relu=activation == "relu")
    parts = [FusedConv(piece, activation, dtype, input_size) for piece in pieces_of(convolution)]
    return Pieces(parts) if len(parts) > 1 else parts[0]


def _fused_with_addition(
    convolution: nn.Conv2d, activation: str, dtype: torch.dtype, input_size: Sequence[int]
) -> nn.Module:
    """As `_fused`, of two inputs: `FusedConvAdd`."""
    if _is_winograds(convolution, activation, dtype, input_size):
        return WinogradConv(convolution, relu=activation == "relu")
    return FusedConvAdd(convolution, activation, dtype, input_size)


def _is_winograds(convolution: nn.Conv2d, activation: str, dtype: torch.dtype, input_size: Sequence[int]) -> bool:
    return dtype == torch.float32 and activation in ("none", "relu") and suits(convolution, input_size)


def _convolutions_with_activation(model: nn.Module) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Which activation, called once in a run, reads the untouched output of which convolution."""
    kinds = tuple(_ACTIVATIONS)
    return [
        (convolution, activation)
        for convolution, activation in followers(model, nn.Conv2d, kinds)
        if type(activation) in _ACTIVATIONS
    ]
