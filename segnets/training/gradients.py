"""Faster gradients on CPUs for two operators whose backward passes are slow in torch.

The forward pass stays torch's, and gradients differ by rounding. Networks may be anyone's: what isn't exactly one of
these operators keeps torch's gradient.

    operator                        gradient here
    bilinear resize of the logits   two matrix products
    dilated depthwise convolution   for the input, the convolution with the flipped kernel

torch 2.13 computes the first one element at a time, and the second with a generic kernel, which takes ten times as
long as its forward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_RESIZE_NODE = "UpsampleBilinear2DBackward0"
_CONVOLUTION_NODE = "ConvolutionBackward0"
# The cost of the matrix products grows with the size of the logits. torch's own gradient is faster above this width.
_WIDEST = 256


class FasterGradients:
    """Hooks on a network that make its backward passes faster.

    The heads' logits become contiguous too, which speeds up their resize and the losses of channels-last networks. The
    resize of contiguous logits differs from that of channels-last ones by rounding.

    Args:
        model: Network. Hooks are set on its `classifier`, its `aux_classifier` and its dilated depthwise convolutions.

    Example:
        >>> gradients = FasterGradients(model)
        >>> with gradients.enabled():
        ...     outputs = gradients.replace_resize(model(images))
        ...     loss_of(outputs).backward()
    """

    def __init__(self, model: nn.Module) -> None:
        heads = [getattr(model, name, None) for name in ("classifier", "aux_classifier")]
        # Scripted modules do not support hooks.
        self._heads = [
            head for head in heads if isinstance(head, nn.Module) and not isinstance(head, torch.jit.ScriptModule)
        ]
        self._convolutions = [module for module in model.modules() if _is_dilated_depthwise(module)]
        self._logits: list[Tensor] = []

    @contextlib.contextmanager
    def enabled(self) -> Iterator[None]:
        """Set the hooks.

        Run the backward pass inside the block too, because gradient checkpointing runs parts of the network in it.
        """
        hooks = [head.register_forward_hook(self._keep_logits) for head in self._heads]
        # In front of a user's hooks, which may change the output.
        hooks += [module.register_forward_hook(_replace_convolution, prepend=True) for module in self._convolutions]
        try:
            yield
        finally:
            self._logits.clear()
            for hook in hooks:
                hook.remove()

    def replace_resize(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the same outputs with faster gradients, where they are the resized logits of a head."""
        try:
            return {
                name: self._with_gradient(output) if isinstance(output, Tensor) else output
                for name, output in outputs.items()
            }
        finally:
            self._logits.clear()

    def _keep_logits(self, _head: nn.Module, _inputs: object, logits: object) -> Tensor | None:
        if not isinstance(logits, Tensor):
            return None
        self._logits.append(logits.contiguous())
        return self._logits[-1]

    def _with_gradient(self, output: Tensor) -> Tensor:
        node: Any = output.grad_fn
        if node is None or node.name() != _RESIZE_NODE or not _is_float_on_cpu(output) or output._backward_hooks:
            return output
        for logits in self._logits:
            # One operation may have several outputs.
            if (logits.grad_fn, logits.output_nr) == node.next_functions[0] and logits.shape[3] <= _WIDEST:
                scales = node._saved_scales_h, node._saved_scales_w
                return _apply(_Resize, logits, [output.detach()], node._saved_align_corners, scales)
        return output


def _is_dilated_depthwise(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d  # a subclass may change its weight first, as parametrizations do
        and "forward" not in vars(module)
        and module.groups == module.in_channels == module.out_channels > 1
        and max(module.dilation) > 1
        and max(module.stride) == 1
        and module.bias is None
        and module.padding_mode == "zeros"
        and min(_flipped_padding(module)) >= 0
    )


def _flipped_padding(module: nn.Conv2d) -> list[int]:
    """Return the padding with which the convolution with the flipped kernel gives the gradient of the input."""
    if isinstance(module.padding, str):
        return [-1]
    sides = zip(module.dilation, module.kernel_size, module.padding, strict=True)
    return [dilation * (kernel - 1) - padding for dilation, kernel, padding in sides]


def _is_float_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def _replace_convolution(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    node = output.grad_fn
    # An image without a batch has another operation, and a keyword argument is not among the inputs.
    if node is None or node.name() != _CONVOLUTION_NODE or len(inputs) != 1:
        return None
    if not _is_float_on_cpu(output) or not _is_float_on_cpu(inputs[0]):
        return None
    return _apply(_DepthwiseConvolution, inputs[0], module.weight, [output.detach()], module)


def _apply(function: Any, *values: Any) -> Tensor:
    result: Tensor = function.apply(*values)
    return result


# The result is given in a list: if it were an argument, torch would forbid to change it in place.
class _Resize(torch.autograd.Function):
    """Bilinear resize whose result is given."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, resized: list[Tensor], align_corners: bool, scales: tuple[float | None, float | None]
    ) -> Tensor:
        ctx.size, ctx.align_corners, ctx.scales = logits.shape[2:], align_corners, scales
        return resized[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        rows, columns = (
            _resize_matrix(small, large, ctx.align_corners, scale)
            for small, large, scale in zip(ctx.size, gradient.shape[2:], ctx.scales, strict=True)
        )
        return rows @ (gradient @ columns.T), None, None, None


def _resize_matrix(small: int, large: int, align_corners: bool, scale: float | None) -> Tensor:
    """Return the matrix (small, large) whose transpose resizes a line of pixels.

    Args:
        small: Number of pixels of the line.
        large: Number of pixels after the resize.
        align_corners: As in `torch.nn.functional.interpolate`.
        scale: The `scale_factor` that was passed to `interpolate`, or None for the ratio of the sizes.
    """
    line = torch.eye(small, dtype=torch.float32, device="cpu")[None]
    matrix: Tensor = torch.ops.aten.upsample_linear1d(line, [large], align_corners, scale)
    return matrix[0]


class _DepthwiseConvolution(torch.autograd.Function):
    """Depthwise convolution with stride 1 whose result is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, output: list[Tensor], module: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.module = module
        return output[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        module: nn.Conv2d = ctx.module
        dilation, groups = list(module.dilation), module.groups
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            flipped = weight.flip(2, 3)
            of_input = F.conv2d(gradient, flipped, None, 1, _flipped_padding(module), dilation, groups)
        if ctx.needs_input_grad[1]:
            _, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [1, 1], list(module.padding), dilation, False, [0, 0], groups,
                [False, True, False],
            )  # fmt: skip
        return of_input, of_weight, None, None
