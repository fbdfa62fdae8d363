"""The proof of a conversion: the source project's own network and ours, the same weights, the same images.

The project's network gets its tensors as the source file names them and in the project's own loading, so that nothing
of what a conversion does (renaming, reordering, choosing options) is in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.registry import build_described
from segnets.weights.fitting import fit
from weights_tools._text import join_names, printable
from weights_tools.check.outputs import TOLERANCES, Measured, measure, named, random_images, worst
from weights_tools.check.peers import Call, Project, find_project, foreign, version_of
from weights_tools.recognise._fit import COUNTER

Size = tuple[int, int]
_DOUBLE_PIXELS = 40_000  # of the largest image that is computed in float64, too, which takes three times as long
_MOST_PIXELS = 1 << 24


@dataclass(frozen=True)
class Proof:
    """What a comparison with a project gave. call: what made its network, every argument written out.

    assumed: the part of these arguments that follows options of ours which no tensor shows.
    """

    project: str
    version: str
    call: str
    assumed: Mapping[str, JSON]
    measured: tuple[Measured, ...]

    @property
    def holds(self) -> bool:
        return all(each.holds for each in self.measured)

    def to_json(self) -> dict[str, JSON]:
        """As it stands in a file: the same for the same weights on the same machine, so no time or date."""
        return {
            "project": self.project,
            "version": self.version,
            "torch": torch.__version__,
            "network": self.call,
            "assumed": dict(self.assumed),
            "holds": self.holds,
            "measured": [each.to_json() for each in self.measured],
        }


def network_of(config: ModelConfig, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of segnets with these tensors, in eval mode. They are not copied.

    Raises WeightsError if they don't fit.
    """
    model = build_described(config.name, dict(config.options))
    fit(model, tensors, where="the converted network", assign=True)
    return model.eval()


def prove(
    project: str,
    theirs: Mapping[str, Tensor],
    config: ModelConfig,
    ours: nn.Module,
    *,
    sizes: Sequence[Size] | None = None,
    arguments: Mapping[str, JSON] | None = None,
) -> Proof:
    """Run the project's own network with the source's tensors beside ours.

    project: a name in `peers.PROJECTS`. theirs: the source's tensors under its own names, prefixes of
    wrappers taken off. config: what our network is; ours: it, with the converted tensors, in eval mode (`network_of`,
    `segnets.load`); afterwards it is in float32. sizes: (height, width) of the images, by default two to four that
    suit the network. arguments: of the project's network, where they are known better than from the config.

    Raises WeightsError if the project is unknown, not installed, or has no such network, or if a tensor is left over
    or missing in it. Results that differ are no error: see `Proof.holds`.
    """
    found = find_project(project)
    call = found.call(config, theirs.keys()).changed(arguments or {})
    chosen = _checked_sizes(found, config, sizes)
    module = _filled(found, call, theirs)
    channels = config.options.get("in_channels", 3)
    assert isinstance(channels, int)
    measured: list[Measured] = []
    for name in reversed(TOLERANCES):  # float64 first: the way back loses nothing that float32 needs
        dtype: torch.dtype = getattr(torch, name)
        ours.to(dtype)
        module.to(dtype)
        for i, size in enumerate(chosen):
            # In float64 one of each pair of sizes by default; nearly all of the time goes there.
            if dtype == torch.float32 or (i % 2 == 0 and size[0] * size[1] <= _DOUBLE_PIXELS):
                images = random_images(size, channels).to(dtype)
                measured += _run_both(found, module, ours, images, size)
    measured.sort(key=lambda each: (each.output != "out", each.output, each.dtype, chosen.index(each.size)))
    return Proof(project, version_of(found), str(call), _assumed(call, arguments), tuple(measured))


def check_fits(project: str, theirs: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise WeightsError if the project has no such network, or if the tensors are not those of its own."""
    found = find_project(project)
    _filled(found, found.call(config, theirs.keys()), theirs)


def _assumed(call: Call, arguments: Mapping[str, JSON] | None) -> Mapping[str, JSON]:
    """Empty where somebody gave arguments of the project: which options these stand for is not known here."""
    return {} if arguments else call.assumed


def _run_both(project: Project, module: nn.Module, ours: nn.Module, images: Tensor, size: Size) -> list[Measured]:
    with torch.inference_mode():
        got = named(ours(images))
        with foreign(project, f"run its network on an image of {size[0]}x{size[1]}"):
            expected = project.run(module, images)
    return measure(got, expected, size=size, whose=f"{project.title}'s network")


def _filled(project: Project, call: Call, theirs: Mapping[str, Tensor]) -> nn.Module:
    """The project's network with the source's tensors, every one of them, in float64."""
    with foreign(project, f"build {call}"):
        module = project.build(call).eval().double()
    try:
        with foreign(project, "load the tensors"):
            # Whether all are used is asked of the project's own loading: some of them rename those of older versions.
            module.load_state_dict(dict(theirs), strict=True)
    except WeightsError:
        raise WeightsError(_difference(project, call, module, theirs)) from None
    return module


def _difference(project: Project, call: Call, module: nn.Module, theirs: Mapping[str, Tensor]) -> str:
    own = module.state_dict()
    missing = [name for name in own if name not in theirs and not name.endswith(COUNTER)]
    unexpected = [name for name in theirs if name not in own]
    wrong = [name for name in own if name in theirs and own[name].shape != theirs[name].shape]
    counts = [(missing, "missing"), (unexpected, "unexpected"), (wrong, "of another shape")]
    said = "; ".join(f"{len(names)} {what} ({join_names(map(printable, names), 3)})" for names, what in counts if names)
    return f"the tensors of the source are not those of {project.title}'s {call}: {said or 'they do not load'}"


def default_sizes(project: Project, config: ModelConfig) -> list[Size]:
    """Even and odd, wide and high; for dilated convolutions also long enough for the widest to reach another pixel.

    In a feature map that is smaller than a dilation, that dilation might as well be any other.
    """
    step = project.step(config)
    odd = 1 if step == 1 else 0
    sizes = [(64, 96), (65, 97) if odd else (96, 160)]
    reach = _reach(config.options)
    if reach > 96:
        sizes += [(32, reach), (reach + odd, 32 + odd)]
    return [(_multiple(height, step), _multiple(width, step)) for height, width in sizes]


def _reach(options: Mapping[str, Any]) -> int:
    """How long an image has to be for the dilations of a network, in pixels."""
    stride = options.get("output_stride") or 1
    rates = [*(options.get("atrous_rates") or ()), *(options.get("multi_grid") or ())]
    return (max(rates, default=0) + 2) * stride


def _multiple(length: int, step: int) -> int:
    return -(-length // step) * step


def _checked_sizes(project: Project, config: ModelConfig, sizes: Sequence[Size] | None) -> list[Size]:
    """Raise WeightsError for sizes that no image has, or that the project's network does not take."""
    if sizes is None:
        return default_sizes(project, config)
    step = project.step(config)
    for height, width in sizes:
        if height < 1 or width < 1 or height * width > _MOST_PIXELS:
            raise WeightsError(f"an image of {height}x{width} can't be compared; 1x1 to {_MOST_PIXELS:,} pixels can")
        if height % step or width % step:
            raise WeightsError(
                f"{project.title} takes images whose sides are multiples of {step} for this network; {height}x{width} "
                f"are not: take {_multiple(height, step)}x{_multiple(width, step)}"
            )
    return list(dict.fromkeys(sizes))


def explain(proof: Proof) -> str:
    """In one sentence, what the proof says."""
    beyond = [each for each in proof.measured if not each.holds and each.dtype == "float32"]
    far = worst(beyond or proof.measured)  # what shows in float32 already says more to most people
    if proof.holds:
        largest = max(each.relative for each in proof.measured)
        if largest == 0:
            return "the same results, bit for bit"
        return f"the same results: none differs by more than {largest:.1g} of the largest"
    if far.largest == 0:
        return f"nothing is proven: all results of {proof.project}'s network in {far.output!r} are 0"
    return (
        f"NOT the same: {far.output!r} differs by {far.difference:.2g} at {far.size[0]}x{far.size[1]} in {far.dtype}, "
        f"where {far.limit:.2g} would be rounding"
    )
