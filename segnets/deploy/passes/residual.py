"""The pass that moves the addition and last activation of residual blocks into their last convolution."""

from __future__ import annotations

from torch import Tensor, nn

from segnets.backbones import BasicBlock, Bottleneck
from segnets.deploy.passes._graph import may_overwrite_input
from segnets.deploy.passes.context import Context, Outcome
from segnets.deploy.passes.convolutions import ConvAdd, is_plain
from segnets.layers import InvertedResidual

_Block = Bottleneck | BasicBlock | InvertedResidual


class FusedResidual(nn.Module):
    """A residual block whose last convolution adds the shortcut. (N, C, H, W) -> (N, C', H', W').

    Args:
        body: Layers before the last convolution.
        last: Last convolution, called with the body's and the shortcut's output.
        shortcut: Layers of the shortcut.
    """

    def __init__(self, body: nn.Module, last: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.last = last
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        body = self.body(x)
        result: Tensor = self.last(body, self.shortcut(x))
        return result


class Copy(nn.Module):
    """An identity whose output has its own memory."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of `x`."""
        return x.clone()


def fuse_additions(network: nn.Module, context: Context) -> Outcome:
    """Move the addition of residual blocks into their last convolution.

    For target "cpu", that convolution overwrites the shortcut with the sum. A shortcut that another module reads
    afterwards is copied.
    """
    blocks: set[nn.Module] = {module for module in network.modules() if isinstance(module, _Block)}
    overwritable = may_overwrite_input(network, blocks, context.channels) if context.target == "cpu" else blocks
    count = 0
    for name, module in list(network.named_modules()):
        if isinstance(module, _Block):
            unchanged = nn.Identity() if module in overwritable else Copy()
            if (fused := _fused(module, unchanged)) is not None:
                network.set_submodule(name, fused)
                count += 1
    return Outcome(network, {"blocks": count})


def _fused(block: _Block, unchanged: nn.Module) -> FusedResidual | None:
    """Build the same block with a `ConvAdd`, or return None if it has a different structure.

    Args:
        block: Block with its batch norms folded.
        unchanged: Module for a shortcut without layers.
    """
    if isinstance(block, InvertedResidual):
        if not block.has_residual:
            return None
        *layers, projection = block.block
        convolution, norm = projection.children()
        if not isinstance(norm, nn.Identity) or not isinstance(convolution, nn.Conv2d):
            return None
        return FusedResidual(nn.Sequential(*layers), ConvAdd(convolution, nn.Identity()), unchanged)
    if not (convolutions := _plain_convolutions(block)):
        return None
    body = [layer for convolution in convolutions[:-1] for layer in (convolution, nn.ReLU(inplace=True))]
    return FusedResidual(
        nn.Sequential(*body), ConvAdd(convolutions[-1], nn.ReLU(inplace=True)), block.downsample or unchanged
    )


def _plain_convolutions(block: Bottleneck | BasicBlock) -> list[nn.Conv2d]:
    """Return a ResNet block's convolutions in order. A ReLU follows each; the addition comes before the last ReLU.

    The list is empty for subclasses, other activations, unfolded norms, and padding other than zeros.
    """
    if type(block) not in (Bottleneck, BasicBlock) or type(block.relu) is not nn.ReLU:
        return []
    names = ("conv1", "conv2", "conv3") if isinstance(block, Bottleneck) else ("conv1", "conv2")
    norms = [getattr(block, name.replace("conv", "bn")) for name in names]
    convolutions: list[nn.Conv2d] = [getattr(block, name) for name in names]
    if all(isinstance(norm, nn.Identity) for norm in norms) and all(map(is_plain, convolutions)):
        return convolutions
    return []
