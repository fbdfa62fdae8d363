"""Winograd's minimal filtering: 3x3 convolutions with less than half of the multiplications.

Lavin & Gray 2015, "Fast Algorithms for Convolutional Neural Networks", F(2x2, 3x3), https://arxiv.org/abs/1509.09308

Four neighbouring outputs of a 3x3 convolution take 36 products per input channel. With sums and differences of the 4x4
inputs that they read, and of the kernel, they take 16. The convolution becomes 16 matrix products over channels. A
dilated convolution is a plain one on every dilation-th line and column.

In float32 the sums have so few terms that they keep as many digits as oneDNN's own convolution. Larger tiles would
save more products but lose digits, and so would bfloat16.

oneDNN's matrix products run about as fast as its convolutions. The head of an FCN on a ResNet-50 takes half as long,
and layers with 256 channels three quarters as long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# With fewer channels, the sums cost nearly as much as the products save (oneDNN 3, two threads of an AMD EPYC).
_FEWEST_CHANNELS = 256
# Largest worthwhile ratio of Winograd's products to the convolution's. oneDNN skips products with the padding, so they
# don't count.
_LARGEST_SHARE = 0.75
# Tiles that are summed before they are multiplied: they fit the caches, and their products run at full speed.
_TILES = 1024

_State = tuple[Tensor, Tensor, int, bool, bool]


def winograd_applies(convolution: nn.Conv2d) -> bool:
    """Return whether Winograd's algorithm applies to a convolution, which must have enough channels to benefit."""
    dilation = convolution.dilation[0]
    return (
        convolution.kernel_size == (3, 3)
        and convolution.stride == (1, 1)
        and convolution.groups == 1
        and convolution.dilation == (dilation, dilation)
        and convolution.padding == (dilation, dilation)
        and convolution.padding_mode == "zeros"
        and min(convolution.in_channels, convolution.out_channels) >= _FEWEST_CHANNELS
    )


def winograd_is_faster(convolution: nn.Conv2d, input_shape: Sequence[int]) -> bool:
    """Return whether Winograd's algorithm is faster than oneDNN's convolution.

    Args:
        convolution: Any convolution.
        input_shape: Shape (N, in, H, W) of its input.
    """
    if not winograd_applies(convolution):
        return False
    dilation = convolution.dilation[0]
    share = 1.0
    for side in input_shape[2:]:
        # Mean number of the three taps per axis that read the image rather than padding.
        taps = 1 + 2 * max(0.0, 1 - dilation / side)
        covered = 2 * dilation * _tiles(side, dilation) / side
        share *= 2 * covered / taps
    return share < _LARGEST_SHARE


def transform_kernels(weight: Tensor) -> Tensor:
    """Transform kernels for Winograd's products: (out, in, 3, 3) -> (4, 4, out, in), float32. Scriptable."""
    half = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    sums = torch.matmul(torch.matmul(half, weight.to(torch.float64)), half.t())
    return sums.permute(2, 3, 0, 1).to(torch.float32).contiguous()


class WinogradConv(nn.Module):
    """A convolution with its bias and optional ReLU. (N, in, H, W) -> (N, out, H, W), float32, channels last.

    The module runs only after its archive is loaded: loading transforms the kernels and reorders them for the CPU. The
    image is computed in strips of as many tiles as the caches hold.

    Args:
        convolution: Convolution for which `winograd_is_faster` holds.
        relu: Whether ReLU follows.
    """

    __constants__ = ("tiles",)

    def __init__(self, convolution: nn.Conv2d, *, relu: bool) -> None:
        super().__init__()
        bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias.detach()
        # Attributes instead of parameters, because loading replaces them with plain tensors.
        self.weight = convolution.weight.detach().contiguous()
        self.bias = bias
        self.dilation = convolution.dilation[0]
        self.relu = relu
        self.weights = [self.weight]
        self.tiles = _TILES
        self.eval()

    @torch.jit.export
    def __getstate__(self) -> _State:
        return (self.weight, self.bias, self.dilation, self.relu, self.training)

    @torch.jit.export
    def __setstate__(self, state: _State) -> None:
        self.bias = state[1]
        self.dilation = state[2]
        self.relu = state[3]
        self.training = state[4]
        matrices = transform_kernels(state[0]).flatten(0, 1)
        self.weights = [torch.ops.mkldnn._reorder_linear_weight(matrix, self.tiles) for matrix in matrices.unbind(0)]
        self.weight = torch.empty(0)  # frees the original kernels

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Compute the convolution.

        Args:
            x: Feature map.
            other: Feature map of the result's shape to add before the ReLU; overwritten with the result.
        """
        n, _, height, width = x.shape
        if other is None:
            result = torch.empty([n, height, width, self.bias.shape[0]], dtype=x.dtype)
        else:
            result = other.permute(0, 2, 3, 1)
        d = self.dilation
        columns = _tiles(width, d)
        lines = _tiles(height, d)
        strip = max(1, self.tiles // (columns * d * d))
        for i in range(n):
            for top in range(0, lines, strip):
                bottom = min(top + strip, lines)
                outputs = self._products(self._padded(x[i], top, bottom, columns))
                start, end = 2 * top * d, min(2 * bottom * d, height)
                outputs = outputs[: end - start, :width]
                target = result[i, start:end]
                if other is not None:
                    target += outputs
                else:
                    target.copy_(outputs)
                if self.relu:
                    target.clamp_min_(0)
        return result.permute(0, 3, 1, 2)

    def _padded(self, image: Tensor, top: int, bottom: int, columns: int) -> Tensor:
        """Return the padded inputs of the tiles from line `top` to `bottom`.

        Args:
            image: Feature map (in, H, W).
            top: First line of tiles.
            bottom: Line of tiles after the last one.
            columns: Number of tiles in a line.

        Returns:
            Inputs (tiles + 1, 2, dilation, columns + 1, 2, dilation, in).
        """
        d = self.dilation
        channels, height, width = image.shape
        first = (2 * top - 1) * d
        end = (2 * bottom + 1) * d
        padded = torch.zeros([end - first, (2 * columns + 2) * d, channels], dtype=image.dtype)
        inside = image[:, max(first, 0) : min(end, height)].permute(1, 2, 0)
        padded[max(first, 0) - first : min(end, height) - first, d : d + width] = inside
        return padded.view(bottom - top + 1, 2, d, columns + 1, 2, d, channels)

    def _products(self, inputs: Tensor) -> Tensor:
        """Compute the tiles' outputs (lines, width, out) from the inputs that `_padded` returns."""
        channels = inputs.shape[6]
        left: list[Tensor] = []
        right: list[Tensor] = []
        for i in range(4):
            line = _combined(inputs[:-1, 0], inputs[:-1, 1], inputs[1:, 0], inputs[1:, 1], i)
            parts: list[Tensor] = []
            for j in range(4):
                tile = _combined(line[:, :, :-1, 0], line[:, :, :-1, 1], line[:, :, 1:, 0], line[:, :, 1:, 1], j)
                bias: Tensor | None = None
                if i == 1 and j == 1:  # the only product that contributes to all four outputs with the same sign
                    bias = self.bias
                parts.append(
                    torch.ops.mkldnn._linear_pointwise(
                        tile.view(-1, channels), self.weights[4 * i + j], bias, "none", [], ""
                    )
                )
            left.append(parts[0].add_(parts[1]).add_(parts[2]))
            right.append(parts[1].sub_(parts[2]).sub_(parts[3]))
        d = self.dilation
        tiles, columns, outputs = inputs.shape[0] - 1, inputs.shape[3] - 1, self.bias.shape[0]
        shape = [tiles, d, columns, d, outputs]
        result = torch.empty([tiles, 2, d, columns, 2, d, outputs], dtype=inputs.dtype)
        for j, m in enumerate([left, right]):
            result[:, 0, :, :, j] = m[0].add_(m[1]).add_(m[2]).view(shape)
            result[:, 1, :, :, j] = m[1].sub_(m[2]).sub_(m[3]).view(shape)
        return result.view(2 * tiles * d, 2 * columns * d, outputs)


class WinogradMatrices(nn.Module):
    """A convolution with its bias, in operators of every LibTorch. (N, in, H, W) -> (N, out, H, W), float32.

    The module uses tensors of at most four dimensions and no loops, so that it can be traced, and other runtimes can
    read it. All tiles are computed at once. The result is in channels-last memory format.

    Args:
        convolution: Convolution for which `winograd_is_faster` holds.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        matrices = transform_kernels(convolution.weight.detach()).flatten(0, 1)  # (16, out, in)
        self.weight = nn.Parameter(matrices.transpose(1, 2).contiguous(), requires_grad=False)
        bias = convolution.bias
        zeros = torch.zeros(convolution.out_channels, dtype=torch.float32)
        self.bias = nn.Parameter(zeros if bias is None else bias.detach(), requires_grad=False)
        self.dilation = convolution.dilation[0]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the convolution."""
        n, channels, height, width = x.shape
        d, outputs = self.dilation, self.bias.shape[0]
        lines, columns = _tiles(height, d), _tiles(width, d)
        padding = [0, 0, d, (2 * columns + 1) * d - width, d, (2 * lines + 1) * d - height]
        # Line k of a tile is in the k-th of its four groups of `dilation` lines, and columns likewise.
        grouped = F.pad(x.permute(0, 2, 3, 1), padding).reshape(n, lines + 1, 2, (2 * columns + 2) * d * d * channels)
        left: list[Tensor] = []
        right: list[Tensor] = []
        for i in range(4):
            sums = _combined(grouped[:, :-1, 0], grouped[:, :-1, 1], grouped[:, 1:, 0], grouped[:, 1:, 1], i)
            line = sums.reshape(n * lines * d, columns + 1, 2, d * channels)
            parts: list[Tensor] = []
            for j in range(4):
                tile = _combined(line[:, :-1, 0], line[:, :-1, 1], line[:, 1:, 0], line[:, 1:, 1], j)
                inputs, matrix = tile.reshape(-1, channels), self.weight[4 * i + j]
                if i == 1 and j == 1:  # the only product that contributes to all four outputs with the same sign
                    parts.append(torch.addmm(self.bias, inputs, matrix))
                else:
                    parts.append(torch.mm(inputs, matrix))
            left.append(parts[0].add_(parts[1]).add_(parts[2]))
            right.append(parts[1].sub_(parts[2]).sub_(parts[3]))
        pairs: list[Tensor] = []
        for index in range(2):
            pair = [
                _output_of(products, index).reshape(n * lines * d, columns, d * outputs) for products in (left, right)
            ]
            pairs.append(torch.stack(pair, dim=2).reshape(n, lines, 2 * d * columns * d * outputs))
        whole = torch.stack(pairs, dim=2).reshape(n, 2 * lines * d, 2 * columns * d, outputs)
        return whole[:, :height, :width].permute(0, 3, 1, 2)


class WinogradProducts(nn.Module):
    """A convolution with its bias, for torch's compiler. (N, in, H, W) -> (N, out, H, W), float32.

    The module uses plain operations on all tiles at once, which compile to loops. The sixteen products are one
    convolution in sixteen groups.

    Lines and columns are looked up in tables. The compiler can't always compile divisions of their indices, and for
    views it would have to prove that sizes are divisible. Channels are the second dimension of every feature map that
    the compiler may write to memory: it stores four-dimensional tensors with that dimension innermost.

    Args:
        convolution: Convolution for which `winograd_is_faster` holds.
        longest: Largest height or width of an input, the length of the tables.
    """

    first: Tensor
    second: Tensor
    sign: Tensor
    tile: Tensor
    second_output: Tensor

    def __init__(self, convolution: nn.Conv2d, longest: int) -> None:
        super().__init__()
        outputs, d = convolution.out_channels, convolution.dilation[0]
        kernels = transform_kernels(convolution.weight.detach()).flatten(0, 2)[:, :, None, None]
        self.weight = nn.Parameter(kernels, requires_grad=False)
        bias = torch.zeros(16, outputs)
        if convolution.bias is not None:
            bias[5] = convolution.bias.detach()  # the product of (1, 1), which all four outputs add
        self.bias = nn.Parameter(bias.flatten(), requires_grad=False)
        self.dilation = d
        line = torch.arange(longest)
        # Inputs of each tile's four sums: first + sign * second.
        start = (2 * d * (line // d) + line % d - d)[:, None]
        self.register_buffer("first", start + d * torch.tensor([0, 1, 2, 1]))
        self.register_buffer("second", start + d * torch.tensor([2, 2, 1, 3]))
        self.register_buffer("sign", torch.tensor([-1.0, 1.0, -1.0, -1.0]))
        # Each output's tile, and its position there: the first sums products 0 + 1 + 2, the second 1 - 2 - 3.
        self.register_buffer("tile", line // (2 * d) * d + line % d)
        self.register_buffer("second_output", line // d % 2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the convolution."""
        height, width = x.shape[2:]
        m = self._products(x)
        tile_line, tile_column = self.tile[:height, None], self.tile[:width]
        line, column = self.second_output[:height, None], self.second_output[:width]
        lines = [
            _output([m[:, tile_line, tile_column, line + i, column + j].permute(0, 3, 1, 2) for j in range(3)], column)
            for i in range(3)
        ]
        return _output(lines, line)  # (N, out, H, W)

    def _products(self, x: Tensor) -> Tensor:
        """Compute the products of all tiles: (N, in, H, W) -> (N, lines, columns, 4, 4, out)."""
        height, width = x.shape[2:]
        lines, columns = self._covering(height), self._covering(width)
        image = x.permute(0, 2, 3, 1)
        (y0, above), (y1, below) = self._inputs(lines, height)
        (x0, left), (x1, right) = self._inputs(columns, width)
        y0, y1, above, below = (table[:, None, :, None] for table in (y0, y1, above, below))
        x0, x1, left, right = (table[:, None, :] for table in (x0, x1, left, right))
        above, below, left, right = (share[..., None] for share in (above, below, left, right))
        upper = left * image[:, y0, x0] + right * image[:, y0, x1]
        lower = left * image[:, y1, x0] + right * image[:, y1, x1]
        sums = above * upper + below * lower  # (N, lines, columns, 4, 4, in)
        products = F.conv2d(sums.flatten(3).permute(0, 3, 1, 2), self.weight, self.bias, groups=16)
        return products.permute(0, 2, 3, 1).view(x.shape[0], lines, columns, 4, 4, -1)

    def _inputs(self, count: int, side: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Look up both inputs of each sum of `count` tiles.

        Returns:
            For each input, its positions and its signs, (count, 4) each. The sign is 0 in the padding.
        """
        first, second = self.first[:count], self.second[:count]
        return (
            (first.clamp(0, side - 1), _is_inside(first, side)),
            (second.clamp(0, side - 1), _is_inside(second, side) * self.sign),
        )

    def _covering(self, side: int) -> int:
        """Return how many lines of tiles cover a side, over all grids.

        The number is even, because the compiler can't compute its bounds for odd ones.
        """
        unit = math.lcm(self.dilation, 2)
        return unit * _tiles(side, unit)


def _output(products: list[Tensor], second: Tensor) -> Tensor:
    """Sum three products, or subtract the last two from the first where `second` is 1."""
    return products[0] + (1 - 2 * second) * (products[1] + products[2])


def _output_of(products: list[Tensor], index: int) -> Tensor:
    """Compute the `index`-th of a tile's two outputs from its four products, which are overwritten. Scriptable."""
    if index == 0:
        return products[0].add_(products[1]).add_(products[2])
    return products[1].sub_(products[2]).sub_(products[3])


def _is_inside(places: Tensor, side: int) -> Tensor:
    """Return 1.0 for positions in 0..side - 1 and 0.0 for others."""
    return ((places >= 0) & (places < side)).to(torch.float32)


def _tiles(side: int, dilation: int) -> int:
    """Return how many tiles of two outputs, per grid of a dilated convolution, cover a side."""
    return (side + 2 * dilation - 1) // (2 * dilation)


def _combined(a: Tensor, b: Tensor, c: Tensor, d: Tensor, index: int) -> Tensor:
    """Compute the `index`-th of Winograd's four sums of a tile's four lines or columns. Scriptable."""
    if index == 0:
        return a - c
    if index == 1:
        return b + c
    if index == 2:
        return c - b
    return b - d
