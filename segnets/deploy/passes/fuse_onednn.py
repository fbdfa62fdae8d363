"""Networks for CPUs: convolution, bias, activation and residual addition in one call of LibTorch's oneDNN operators.

What the compiler of `torch.compile` calls on CPUs (`mkldnn::_convolution_pointwise`), an archive can call as well. The
weights are laid out for the processor once, when the file is loaded, and images run with channels last in memory.
It computes the same function in another order, so that last bits differ: done on a copy, for an export, which compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segnets.deploy.passes._graph import convolution_inputs, followers, names_of
from segnets.deploy.passes.context import Context, Outcome
from segnets.deploy.passes.convolutions import ConvAdd, Form, Pieces, form_of, is_plain, pieces_of, two
from segnets.deploy.passes.winograd import WinogradConv

# The names of oneDNN's post-operations.
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "swish",
    nn.Tanh: "tanh",
}

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


def fuse_convolutions(network: nn.Module, context: Context) -> Outcome:
    """Replace every convolution by a call of oneDNN that computes bias, activation and addition too.

    Convolutions that don't run, or pad with anything but zeros, stay as they are.

    Raises:
        ExportError: If the network doesn't run on an image of `context.image_size`.
    """
    activations = dict(_convolutions_with_activation(network))
    sizes = convolution_inputs(network, context.image_size)
    counts: Counter[str] = Counter()
    for name, module in list(network.named_modules()):
        if isinstance(module, ConvAdd) and is_plain(module.convolution) and module.convolution in sizes:
            convolution, size = module.convolution, sizes[module.convolution]
            activation = _ACTIVATIONS.get(type(module.activation), "none")
            form = form_of(convolution, size, context, activation=activation, adds=True)
            network.set_submodule(name, _fused_with_addition(convolution, form, activation, context.dtype, size))
            counts[f"{form.value}_with_addition"] += 1
    for activation_layer in activations.values():
        for name in names_of(network, activation_layer):
            network.set_submodule(name, nn.Identity())
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and is_plain(module) and module in sizes:
            activation = _ACTIVATIONS[type(activations[module])] if module in activations else "none"
            form = form_of(module, sizes[module], context, activation=activation)
            network.set_submodule(name, _fused(module, form, activation, context.dtype, sizes[module]))
            counts[form.value] += 1
    return Outcome(network, counts)


def _fused(
    convolution: nn.Conv2d, form: Form, activation: str, dtype: torch.dtype, input_size: Sequence[int]
) -> nn.Module:
    if form is Form.WINOGRAD:
        return WinogradConv(convolution, relu=activation == "relu")
    if form is Form.PIECES:
        return Pieces([FusedConv(piece, activation, dtype, input_size) for piece in pieces_of(convolution)])
    return FusedConv(convolution, activation, dtype, input_size)


def _fused_with_addition(
    convolution: nn.Conv2d, form: Form, activation: str, dtype: torch.dtype, input_size: Sequence[int]
) -> nn.Module:
    """As `_fused`, with the second input of `ConvAdd`."""
    if form is Form.WINOGRAD:
        return WinogradConv(convolution, relu=activation == "relu")
    return FusedConvAdd(convolution, activation, dtype, input_size)


def _convolutions_with_activation(network: nn.Module) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Pair convolutions that can be fused with the activation, called once in a run, that reads their output."""
    types = tuple(_ACTIVATIONS)
    return [
        (convolution, activation)
        for convolution, activation in followers(network, nn.Conv2d, types)
        if type(activation) in _ACTIVATIONS and is_plain(convolution)
    ]
