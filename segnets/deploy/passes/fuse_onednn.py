"""The pass for CPUs: compute convolution, bias, activation and residual addition in one call to oneDNN.

LibTorch's operators for such calls (`mkldnn::_convolution_pointwise`) are those that `torch.compile` uses on CPUs. The
weights are reordered for the CPU once, when the file is loaded. Feature maps are in channels-last memory format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segnets.deploy.passes._graph import consecutive_pairs, convolution_input_shapes, names_of
from segnets.deploy.passes.context import Context, Outcome
from segnets.deploy.passes.convolutions import ConvAdd, Form, Pieces, as_ints, form_of, is_plain, pieces_of
from segnets.deploy.passes.winograd import WinogradConv

# oneDNN's names for the activations that it can compute after a convolution.
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
    """Weights and settings of a fused convolution.

    After loading, the weight has an opaque layout for this CPU, and the module can't be saved again.

    Args:
        convolution: Convolution to take them from; `is_plain` holds for it.
        activation: "none" or a name in `_ACTIVATIONS`.
        dtype: Precision of weights and feature maps.
        input_shape: Input shape (N, in, H, W) that the weight is reordered for. For other shapes oneDNN may have to
            reorder it in every call, which is slower.
    """

    def __init__(self, convolution: nn.Conv2d, activation: str, dtype: torch.dtype, input_shape: Sequence[int]) -> None:
        super().__init__()
        bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias.detach()
        # Attributes instead of parameters, because loading replaces them with plain tensors.
        self.weight = convolution.weight.detach().to(dtype).contiguous()
        self.bias = bias.to(dtype)
        self.padding = as_ints(convolution.padding)
        self.stride = as_ints(convolution.stride)
        self.dilation = as_ints(convolution.dilation)
        self.groups = convolution.groups
        self.input_shape = list(input_shape)
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
            self.input_shape,
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
        self.input_shape = state[6]
        self.activation = state[7]
        self.training = state[8]
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            state[0], self.padding, self.stride, self.dilation, self.groups, self.input_shape
        )


class FusedConv(PackedConv):
    """A convolution with its bias and activation. (N, in, H, W) -> (N, out, H', W'), channels last."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the convolution and the activation."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, self.activation, [], ""
        )
        return result


class FusedConvAdd(PackedConv):
    """A `FusedConv` that adds another feature map of the result's shape before the activation."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Overwrite `other` with the result and return it."""
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
    """Replace each convolution and its activation, with or without an addition, with one call to oneDNN.

    Convolutions that don't run, or pad with values other than zeros, stay as they are.

    Raises:
        ExportError: If the network doesn't run on an image of `context.image_size`.
    """
    activations = dict(_convolutions_with_activation(network, context.channels))
    shapes = convolution_input_shapes(network, context.image_size, context.channels)
    counts: Counter[str] = Counter()
    for name, module in list(network.named_modules()):
        if isinstance(module, ConvAdd) and is_plain(module.convolution) and module.convolution in shapes:
            convolution, shape = module.convolution, shapes[module.convolution]
            layer = module.activation
            activation = "none" if isinstance(layer, nn.Identity) else _ACTIVATIONS[type(layer)]
            form = form_of(convolution, shape, context, activation=activation, adds=True)
            network.set_submodule(name, _fused_with_addition(convolution, form, activation, context.dtype, shape))
            counts[f"{form.value}_with_addition"] += 1
    for activation_layer in activations.values():
        for name in names_of(network, activation_layer):
            network.set_submodule(name, nn.Identity())
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and is_plain(module) and module in shapes:
            activation = _ACTIVATIONS[type(activations[module])] if module in activations else "none"
            form = form_of(module, shapes[module], context, activation=activation)
            network.set_submodule(name, _fused(module, form, activation, context.dtype, shapes[module]))
            counts[form.value] += 1
    return Outcome(network, counts)


def _fused(
    convolution: nn.Conv2d, form: Form, activation: str, dtype: torch.dtype, input_shape: Sequence[int]
) -> nn.Module:
    """Build the replacement of a convolution and its activation."""
    if form is Form.WINOGRAD:
        return WinogradConv(convolution, relu=activation == "relu")
    if form is Form.PIECES:
        return Pieces([FusedConv(piece, activation, dtype, input_shape) for piece in pieces_of(convolution)])
    return FusedConv(convolution, activation, dtype, input_shape)


def _fused_with_addition(
    convolution: nn.Conv2d, form: Form, activation: str, dtype: torch.dtype, input_shape: Sequence[int]
) -> nn.Module:
    """Build the replacement of a `ConvAdd`."""
    if form is Form.WINOGRAD:
        return WinogradConv(convolution, relu=activation == "relu")
    return FusedConvAdd(convolution, activation, dtype, input_shape)


def _convolutions_with_activation(network: nn.Module, channels: int) -> list[tuple[nn.Conv2d, nn.Module]]:
    """Find convolutions that can be fused and the activations that read their output."""
    types = tuple(_ACTIVATIONS)
    return [
        (convolution, activation)
        for convolution, activation in consecutive_pairs(network, nn.Conv2d, types, channels)
        if type(activation) in _ACTIVATIONS and is_plain(convolution)
    ]
