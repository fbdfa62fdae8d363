"""Ways to compute a convolution, and the choice between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from segnets.deploy.passes._graph import convolution_input_shapes
from segnets.deploy.passes.context import Context, Outcome
from segnets.deploy.passes.winograd import WinogradMatrices, WinogradProducts, winograd_applies, winograd_is_faster

# Measured with 2048 and 1024 input channels. Dilated kernels skip much of the image and gain nothing from pieces.
_MANY_CHANNELS = 1024
_PIECE = 128


class Form(Enum):
    """A way to compute a convolution.

    Attributes:
        PLAIN: One call of the library's convolution.
        ONE_PIXEL: Plain sums, for a feature map of a single pixel.
        WINOGRAD: Winograd's minimal filtering (`segnets.deploy.passes.winograd`).
        PIECES: Several convolutions, each of which computes some of the output channels.
    """

    PLAIN = "plain"
    ONE_PIXEL = "one_pixel"
    WINOGRAD = "winograd"
    PIECES = "pieces"


def form_of(
    convolution: nn.Conv2d,
    input_shape: Sequence[int],
    context: Context,
    *,
    activation: str = "none",
    adds: bool = False,
) -> Form:
    """Choose the fastest form for a convolution.

    Args:
        convolution: Convolution with its batch norm folded.
        input_shape: Shape (N, in, H, W) of its input.
        context: Deployment that the network is rewritten for.
        activation: oneDNN's name of the activation in the same call.
        adds: Whether the same call adds another feature map.
    """
    if context.format == "aoti" and list(input_shape[2:]) == [1, 1] and _is_matrix_product(convolution):
        return Form.ONE_PIXEL  # in gates, and in the branch that pools the whole image
    # The tables of WinogradProducts are as long as the largest image's side.
    in_tables = context.largest_side is None or _is_no_larger(input_shape, context.image_size)
    if (
        context.winograd
        and context.dtype == torch.float32
        and activation in ("none", "relu")
        and in_tables
        and winograd_is_faster(convolution, input_shape)
    ):
        return Form.WINOGRAD
    if (
        not adds
        and convolution.in_channels >= _MANY_CHANNELS
        and convolution.out_channels > _PIECE
        and convolution.groups == 1
        and convolution.kernel_size != (1, 1)
        and convolution.dilation == (1, 1)
    ):
        return Form.PIECES
    return Form.PLAIN


def choose_forms(network: nn.Module, context: Context) -> Outcome:
    """Replace convolutions with the forms for which torch's compiler generates the fastest code.

    Raises:
        ExportError: If the network doesn't run on an image of `context.image_size`.
    """
    assert context.largest_side is not None
    shapes = convolution_input_shapes(network, context.image_size, context.channels)
    counts: Counter[str] = Counter()
    for name, module in list(network.named_modules()):
        if not isinstance(module, nn.Conv2d) or module not in shapes:
            continue
        form = form_of(module, shapes[module], context)
        counts[form.value] += 1
        if form is Form.ONE_PIXEL:
            network.set_submodule(name, OnePixelConv(module))
        elif form is Form.WINOGRAD:
            network.set_submodule(name, WinogradProducts(module, context.largest_side))
        elif form is Form.PIECES:
            network.set_submodule(name, Pieces(pieces_of(module)))
    return Outcome(network, counts)


def use_winograd(network: nn.Module, context: Context) -> Outcome:
    """Compute convolutions by Winograd's algorithm in plain operators where that is faster.

    Raises:
        ExportError: If the network doesn't run on an image of `context.image_size`.
    """
    candidates = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and winograd_applies(m)}
    # Many networks have none. Finding the shapes imports torch's compiler, which takes longer than everything else.
    shapes = convolution_input_shapes(network, context.image_size, context.channels) if candidates else {}
    count = 0
    for name, module in candidates.items():
        if module in shapes and winograd_is_faster(module, shapes[module]):
            network.set_submodule(name, WinogradMatrices(module))
            count += 1
    return Outcome(network, {Form.WINOGRAD.value: count})


class ConvAdd(nn.Module):
    """A convolution that adds another feature map to its result before the activation.

    (N, in, H, W), (N, out, H', W') -> (N, out, H', W').
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution
        self.activation = activation

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Compute the convolution, add `other`, and apply the activation."""
        result: Tensor = self.activation(self.convolution(x).add_(other))
        return result


class OnePixelConv(nn.Module):
    """A 1x1 convolution of a pooled feature map as plain sums in float32. (N, in, 1, 1) -> (N, out, 1, 1).

    The compiler turns the sums into a loop. oneDNN would reorder the weight in every call if the number of threads
    differs from that at compile time. That takes a third of LR-ASPP's time.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """Compute the convolution."""
        sums: Tensor = (x.flatten(1).unsqueeze(1).float() * self.weight.float()).sum(2)
        if self.bias is not None:
            sums = sums + self.bias.float()
        return sums.to(x.dtype)[:, :, None, None]


class Pieces(nn.Module):
    """Modules that read the same input, their outputs concatenated in channels. (N, C, H, W) -> (N, C', H', W').

    The kernels of a 3x3 convolution with many input and output channels don't fit the nearest cache. For example, the
    head of an FCN on a ResNet-50 (2048 channels) runs at three quarters of other convolutions' speed. The kernels of a
    piece fit, and every sum has the same terms.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the outputs of all parts."""
        return torch.cat([part(x) for part in self.parts], dim=1)


def is_plain(convolution: nn.Conv2d) -> bool:
    """Return whether the convolution pads with a fixed number of zeros."""
    return convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


def as_ints(value: tuple[int, ...] | str) -> list[int]:
    """Convert a setting of an `is_plain` convolution to the list that torch's operators take."""
    assert not isinstance(value, str)
    return list(value)


def pieces_of(convolution: nn.Conv2d) -> list[nn.Conv2d]:
    """Split a convolution into several that compute its output channels in order."""
    return [
        _piece(convolution, slice(start, min(start + _PIECE, convolution.out_channels)))
        for start in range(0, convolution.out_channels, _PIECE)
    ]


def _piece(whole: nn.Conv2d, channels: slice) -> nn.Conv2d:
    part = nn.Conv2d(
        whole.in_channels,
        channels.stop - channels.start,
        _pair(whole.kernel_size),
        _pair(whole.stride),
        whole.padding if isinstance(whole.padding, str) else _pair(whole.padding),
        bias=whole.bias is not None,
        padding_mode=whole.padding_mode,
        device="meta",
    )
    part.weight = nn.Parameter(whole.weight.detach()[channels].clone(), requires_grad=False)
    if whole.bias is not None:
        part.bias = nn.Parameter(whole.bias.detach()[channels].clone(), requires_grad=False)
    return part


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Narrow the type of a two-dimensional layer's setting, which torch declares as a tuple of any length."""
    height, width = sizes
    return height, width


def _is_matrix_product(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == (1, 1) and convolution.padding == (0, 0) and convolution.groups == 1


def _is_no_larger(input_shape: Sequence[int], image_size: tuple[int, int]) -> bool:
    """Return whether a feature map's height and width are at most the image's."""
    return input_shape[2] <= image_size[0] and input_shape[3] <= image_size[1]
