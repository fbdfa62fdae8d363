"""Compare a converted network with the source project's own network: same weights, same images.

The project's network gets its tensors under the source file's names and through the project's own loading code. So
nothing that a conversion does (renaming, reordering, choosing options) affects both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.weights.mismatch import COUNTER, find_mismatch
from weights_tools._text import join_names, printable
from weights_tools.check.outputs import (
    TOLERANCES,
    OutputComparison,
    compare_outputs,
    outputs_by_name,
    random_images,
    worst,
)
from weights_tools.check.peers import Peer, PeerCall, find_peer, installed_version, peer_errors

Size = tuple[int, int]
_MAX_FLOAT64_PIXELS = 40_000  # float64 takes three times as long as float32
_MAX_PIXELS = 1 << 24


@dataclass(frozen=True)
class PeerComparison:
    """Outputs of a converted network compared with those of a project's own network.

    Attributes:
        project: Name of the project.
        version: Installed version of the project.
        call: Call that built the project's network, with every argument.
        assumed: Options of segnets that the weights do not show and that became arguments of the call.
        measured: One comparison per output, size and dtype.
    """

    project: str
    version: str
    call: str
    assumed: Mapping[str, JSON]
    measured: tuple[OutputComparison, ...]

    @property
    def holds(self) -> bool:
        """True if all outputs are the same within the tolerance."""
        return all(each.holds for each in self.measured)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if self.holds:
            largest = max(each.relative for each in self.measured)
            if largest == 0:
                return "the same results, bit for bit"
            return f"the same results: no output differs by more than {largest:.1g} of the largest"
        beyond = [each for each in self.measured if not each.holds and each.dtype == "float32"]
        far = worst(beyond or self.measured)  # report a float32 failure first: it is the familiar dtype
        if far.largest == 0:
            return f"inconclusive: {far.output!r} of {self.project}'s network is 0 everywhere"
        return (
            f"NOT the same: {far.output!r} differs by {far.difference:.2g} at {far.size[0]}x{far.size[1]} in "
            f"{far.dtype}; rounding explains at most {far.limit:.2g}"
        )

    def to_json(self) -> dict[str, JSON]:
        """Return the record for a converted file. It has no date, so the same comparison gives the same bytes."""
        return {
            "project": self.project,
            "version": self.version,
            "torch": torch.__version__,
            "network": self.call,
            "assumed": dict(self.assumed),
            "holds": self.holds,
            "measured": [each.to_json() for each in self.measured],
        }


def compare_with_peer(
    project: str,
    theirs: Mapping[str, Tensor],
    config: ModelConfig,
    ours: nn.Module,
    *,
    sizes: Sequence[Size] | None = None,
    arguments: Mapping[str, JSON] | None = None,
) -> PeerComparison:
    """Run the project's own network and ours on the same images and compare their outputs.

    Args:
        project: A name in `peers.PEERS`.
        theirs: The source's tensors under its own names, without prefixes of wrappers.
        config: Configuration of our network.
        ours: Our network with the converted tensors, in eval mode. The call leaves it in float32.
        sizes: (height, width) of the images; by default two to four that suit the network.
        arguments: Arguments of the project's network that take precedence over those that follow from `config`.

    Raises:
        WeightsError: If the project is unknown, not installed, or has no such network, or if its network has other
            tensors. Differing outputs are not an error: see `PeerComparison.holds`.
    """
    peer = find_peer(project)
    call = peer.call(config, theirs.keys()).with_arguments(arguments or {})
    chosen = _checked_sizes(peer, config, sizes)
    module = _load(peer, call, theirs)
    channels = config.options.get("in_channels", 3)
    assert isinstance(channels, int)
    measured: list[OutputComparison] = []
    for name in reversed(TOLERANCES):  # float64 first: casting back to float32 loses nothing
        dtype: torch.dtype = getattr(torch, name)
        ours.to(dtype)
        module.to(dtype)
        for i, size in enumerate(chosen):
            # Only every second size in float64, which takes most of the time.
            if dtype == torch.float32 or (i % 2 == 0 and size[0] * size[1] <= _MAX_FLOAT64_PIXELS):
                images = random_images(size, channels).to(dtype)
                measured += _run_both(peer, module, ours, images, size)
    measured.sort(key=lambda each: (each.output != "out", each.output, each.dtype, chosen.index(each.size)))
    # The caller's arguments may set any option, so none of ours counts as assumed then.
    assumed = {} if arguments else call.assumed
    return PeerComparison(project, installed_version(peer), str(call), assumed, tuple(measured))


def check_loads_into_peer(project: str, theirs: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Check that the project has such a network with exactly these tensors.

    Raises:
        WeightsError: If the project has no such network, or the network has other tensors.
    """
    peer = find_peer(project)
    _load(peer, peer.call(config, theirs.keys()), theirs)


def _run_both(peer: Peer, module: nn.Module, ours: nn.Module, images: Tensor, size: Size) -> list[OutputComparison]:
    with torch.inference_mode():
        got = outputs_by_name(ours(images))
        with peer_errors(peer, f"run its network on an image of {size[0]}x{size[1]}"):
            expected = peer.run(module, images)
    return compare_outputs(got, expected, size=size, source=f"{peer.title}'s network")


def _load(peer: Peer, call: PeerCall, theirs: Mapping[str, Tensor]) -> nn.Module:
    """Build the project's network in float64 and load into it the source's tensors that affect its outputs."""
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(peer.without_effect)}
    with peer_errors(peer, f"build {call}"):
        module = peer.build(call).eval().double()
    try:
        with peer_errors(peer, "load the tensors"):
            # Use the project's own loading code: some projects rename tensors of older versions.
            module.load_state_dict(dict(theirs), strict=True)
    except WeightsError:
        raise WeightsError(_mismatch(peer, call, module, theirs)) from None
    return module


def _mismatch(peer: Peer, call: PeerCall, module: nn.Module, theirs: Mapping[str, Tensor]) -> str:
    needed = {name: t for name, t in module.state_dict().items() if name in theirs or not name.endswith(COUNTER)}
    kinds = find_mismatch(needed, theirs).kinds()
    parts = "; ".join(f"{len(names)} {kind} ({join_names(map(printable, names), 3)})" for kind, names in kinds.items())
    return f"the source's tensors do not fit {peer.title}'s {call}: {parts or 'they do not load'}"


def default_sizes(peer: Peer, config: ModelConfig) -> list[Size]:
    """Choose image sizes: even and odd, wide and tall, and large enough for every dilation to reach another pixel.

    A dilation larger than its feature map could have any value without changing the output.
    """
    step = peer.size_multiple(config)
    odd = 1 if step == 1 else 0
    sizes = [(64, 96), (65, 97) if odd else (96, 160)]
    reach = _reach(config.options)
    if reach > 96:
        sizes += [(32, reach), (reach + odd, 32 + odd)]
    return [(_round_up(height, step), _round_up(width, step)) for height, width in sizes]


def _reach(options: Mapping[str, Any]) -> int:
    """Return the image side in pixels that the largest dilation needs."""
    stride = options.get("output_stride") or 1
    rates = [*(options.get("atrous_rates") or ()), *(options.get("multi_grid") or ())]
    return (max(rates, default=0) + 2) * stride


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step


def _checked_sizes(peer: Peer, config: ModelConfig, sizes: Sequence[Size] | None) -> list[Size]:
    """Return the sizes without duplicates; refuse those that the project's network does not accept."""
    if sizes is None:
        return default_sizes(peer, config)
    step = peer.size_multiple(config)
    for height, width in sizes:
        if height < 1 or width < 1 or height * width > _MAX_PIXELS:
            raise WeightsError(f"image size {height}x{width}: expected 1 to {_MAX_PIXELS:,} pixels")
        if height % step or width % step:
            raise WeightsError(
                f"image size {height}x{width}: {peer.title} needs multiples of {step} for this network. "
                f"Use {_round_up(height, step)}x{_round_up(width, step)}."
            )
    return list(dict.fromkeys(sizes))
