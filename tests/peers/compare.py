"""The same weights in our network and in another project's, and how far apart their results are.

The other project's network is built first and every parameter and buffer of it made random (`randomised`). Its state
dict is renamed by a table of rules (`renamed`), in which every name must find its rule, and loaded into ours, where
every name must be filled. Both then run in float32 and float64, at an even and an odd size of the image.

A strict load proves nothing about the numbers: most options leave every name and shape as it is. So the same cases
with one such option changed (`with_one_option_changed`) must give other numbers.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets.layers import NormLayer
from segnets.registry import MODELS
from tests.oracle import randomise_  # importing torchvision by its door, which opens the way for the peers that use it

# The largest difference of any number, where the largest results are of order 10: other kernels, other last bits.
LIMITS = {torch.float32: 1e-4, torch.float64: 1e-10}
NUM_CLASSES = 7
# What is imported of each peer.
MODULES = {
    "timm": ("timm",),
    "segmentation_models_pytorch": ("segmentation_models_pytorch",),
    "mmsegmentation": ("mmseg", "mmcv", "mmengine", "ftfy", "regex"),
    "transformers": ("transformers",),
    "torchvision": (),
}

State = dict[str, Tensor]
# What a name begins with, a regular expression -> what takes its place; None for a tensor that never runs.
Rules = Mapping[str, str | None]


@dataclass(frozen=True)
class Theirs:
    """Another project's network with random weights.

    run: image -> its results under our names; state: its tensors under our names.
    """

    module: nn.Module
    run: Callable[[Tensor], State]
    state: State


@dataclass(frozen=True)
class Case:
    """One network of another project, and the network of ours that must give the same numbers.

    peer: the package's name; network: what is built of it, for people; theirs: builds it.
    model, options: our network. layers: of its backbone, by their names, to compare in place of the scores.
    divisible: it takes images of multiples of the output stride only.
    adapts: the weights are for RGB, and ours must fit them to its own in_channels.
    """

    peer: str
    network: str
    model: str
    options: Mapping[str, Any]
    theirs: Callable[[], Theirs]
    layers: tuple[str, ...] = ()
    divisible: bool = False
    adapts: bool = False

    @property
    def text(self) -> str:
        """Our network as one calls for it."""
        return f"{self.model}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"

    def __str__(self) -> str:
        return f"{self.network} = {self.text}"

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Of the images: an even and an odd one, wide and high where there is ASPP.

        In a feature map that is smaller than an atrous rate, that rate might as well be any other.
        """
        options = {} if self.layers else MODELS[self.model].resolve(self.options)
        return sizes_for(options, divisible=self.divisible)

    def ours(self, state: State) -> nn.Module:
        """Our network with these weights. Raises RuntimeError if a name or a shape does not fit."""
        weights: dict[str, Any] = {"weights_backbone" if self.layers else "weights": state} if self.adapts else {}
        model = segnets.create_model(self.model, num_classes=NUM_CLASSES, **self.options, **weights)
        module: nn.Module = model
        if self.layers:
            module = segnets.IntermediateLayerGetter(model.backbone, {path: path for path in self.layers})
        if not self.adapts:
            one_sided = module.state_dict().keys() ^ state.keys()  # a strict load forgives a missing counter
            if one_sided:
                raise RuntimeError(f"names on one side only: {', '.join(sorted(one_sided))}")
            module.load_state_dict(state, strict=True)
        return module.eval()


def sizes_for(options: Mapping[str, Any], *, divisible: bool) -> list[tuple[int, int]]:
    """See `Case.sizes`. options: of our network, settled."""
    if "atrous_rates" not in options:
        return [(64, 96), (96, 160) if divisible else (65, 97)]
    long = (max(options["atrous_rates"]) + 2) * options["output_stride"]
    odd = 0 if divisible else 1
    return [(32, long), (long + odd, 32 + odd)]


@dataclass(frozen=True)
class Parity:
    """What a comparison gave. largest: the largest absolute difference, by dtype; reference: the largest result."""

    largest: Mapping[torch.dtype, float]
    reference: float

    @property
    def holds(self) -> bool:
        return all(difference <= LIMITS[dtype] for dtype, difference in self.largest.items())


def measure(case: Case, dtypes: Iterable[torch.dtype] = tuple(LIMITS)) -> Parity:
    """Run both networks and compare every map that they give. Raises ValueError if these are not the same maps."""
    theirs = case.theirs()
    ours = case.ours(theirs.state)
    theirs.module.eval()
    differences, reference = dict.fromkeys(dtypes, 0.0), 0.0
    for dtype in differences:
        ours.to(dtype)
        theirs.module.to(dtype)
        for size in case.sizes:
            channels = case.options.get("in_channels", 3)
            x = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
            with torch.inference_mode():
                got, expected = ours(x), theirs.run(x)
            shapes = [{name: tuple(tensor.shape) for name, tensor in maps.items()} for maps in (got, expected)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"maps {shapes[0]}, expected {shapes[1]}")
            for name, tensor in expected.items():
                differences[dtype] = max(differences[dtype], largest(got[name] - tensor))
                reference = max(reference, largest(tensor))
    return Parity(differences, reference)


def largest(x: Tensor) -> float:
    """The largest absolute value. Raises ValueError if there is one that is no number."""
    if not x.isfinite().all():
        raise ValueError("not all results are finite")
    return x.abs().max().item()


def check(case: Case) -> None:
    """The test of a case."""
    parity = measure(case)
    assert 1 <= parity.reference <= 100, f"results up to {parity.reference:.3g} say little about a limit of 1e-4"
    assert parity.holds, f"{case}: {parity}"


@dataclass(frozen=True)
class Change:
    """A case with one option changed, so that it must fail. `case` is the changed one."""

    option: str
    before: Any
    after: Any
    case: Case

    def __str__(self) -> str:
        return f"{self.option}={self.after!r} in place of {self.before!r}, {self.case.network}"


# Options that no name and no shape shows -> another value.
OTHERS: dict[str, Callable[[Any], Any]] = {
    "first_block_dilation": lambda value: {"same": "previous", "previous": "same"}[value],
    "basic_block_dilation": lambda value: {"first": "both", "both": "first"}[value],
    "multi_grid": lambda value: tuple(2 * rate for rate in value),
    "downsample": lambda value: {"average": "average_dilated", "average_dilated": "average"}[value],
    "stride_in_1x1": lambda value: not value,
    "norm_eps": lambda value: 1e-3 if value == 1e-5 else 1e-5,
    "head_norm_eps": lambda value: 1e-3 if value == 1e-5 else 1e-5,
    "aspp_norm_eps": lambda value: 1e-2 if value == 1e-5 else 1e-5,
    "atrous_rates": lambda value: (*value[:-1], value[-1] + 1),
    "align_corners": lambda value: not value,
}


def with_one_option_changed(cases: Iterable[Case]) -> list[Change]:
    """For each option that no tensor shows, the first case of each output stride and kind of model that sets it."""
    changes: dict[tuple[object, ...], Change] = {}
    for case in cases:
        for option, other in OTHERS.items():
            if option not in case.options or (option == "downsample" and case.options.get("output_stride") == 32):
                continue  # without dilation both kinds of average pooling are one
            before = case.options[option]
            after = other(before)
            options = {**case.options, option: after}
            key = (option, case.model.partition("_")[0], case.options.get("output_stride"))
            changes.setdefault(key, Change(option, before, after, replace(case, options=options)))
    return list(changes.values())


def difference_of(change: Change) -> float:
    """How far apart the results are with the option changed."""
    return measure(change.case, [torch.float32]).largest[torch.float32]


def check_differs(change: Change) -> None:
    """The test of a change: far outside of the limit that the case is held to."""
    assert difference_of(change) > 100 * LIMITS[torch.float32]


def randomised(module: nn.Module, *, gain: float, within: str = "") -> nn.Module:
    """The module with random values in every tensor; convolutions whose names begin with `within` scaled by `gain`.

    Without the gain the residual branches of a ResNet would add up to numbers in the thousands.
    """
    randomise_(module)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.ndim == 4 and name.startswith(within):
                tensor.mul_(gain)
    return module


def with_norms(module: nn.Module, make: NormLayer, *, but: type[nn.Module] | tuple[()] = ()) -> nn.Module:
    """The module with its batch norms replaced; but: a kind of module inside which they stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make(child.num_features))
        elif not isinstance(child, but):
            with_norms(child, make, but=but)
    return module


def renamed(state: Mapping[str, Tensor], rules: Rules) -> State:
    """A copy of the tensors under our names; the first rule that fits decides.

    Raises KeyError for a name without a rule, and for two that become one.
    """
    result: State = {}
    for name, tensor in state.items():
        pattern = next((pattern for pattern in rules if re.match(pattern, name)), None)
        if pattern is None:
            raise KeyError(f"no rule for {name}")
        new = rules[pattern]
        if new is None:
            continue
        ours = re.sub(f"^{pattern}", new, name)
        if ours in result:
            raise KeyError(f"two tensors for {ours}")
        result[ours] = tensor.clone()
    return result


def version(peer: str) -> str:
    """The installed version of a package."""
    return importlib.metadata.version(peer)


def absent(peer: str) -> list[str]:
    """The modules of a peer that are not installed."""
    return [module for module in MODULES[peer] if importlib.util.find_spec(module) is None]


def needs(peer: str) -> pytest.MarkDecorator:
    """Skip the tests of a file where the other project is not installed."""
    missing = absent(peer)
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: make test-peers")
