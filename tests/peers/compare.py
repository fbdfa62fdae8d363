"""Compare the outputs of our network and another project's with the same weights.

The other project's network is built and all its parameters and buffers are randomised (`randomised`). Its state dict
is renamed by a table of rules (`renamed`), in which every name needs a rule, and loaded into ours, where every name
has to be filled. Both run in float32 and float64 on images of an even and an odd size.

A strict load proves nothing about the outputs: most options leave every name and shape unchanged. So the same cases
with one such option changed (`with_one_option_changed`) must give other outputs.
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
from tests.oracle import randomise_  # imports torchvision_compat, which peers that use torchvision need

# Largest absolute difference, for outputs of order 10. Other kernels round differently.
LIMITS = {torch.float32: 1e-4, torch.float64: 1e-10}
NUM_CLASSES = 7
# Modules of each peer that have to be importable.
MODULES = {
    "timm": ("timm",),
    "segmentation_models_pytorch": ("segmentation_models_pytorch",),
    "mmsegmentation": ("mmseg", "mmcv", "mmengine", "ftfy", "regex"),
    "transformers": ("transformers",),
    "torchvision": (),
}

State = dict[str, Tensor]
# Regular expression for the beginning of a name -> replacement; None for a tensor that is never used.
Rules = Mapping[str, str | None]


@dataclass(frozen=True)
class Theirs:
    """Another project's network with random weights.

    Attributes:
        module: The network.
        run: Function from images to outputs under our names.
        state: Tensors under our names.
    """

    module: nn.Module
    run: Callable[[Tensor], State]
    state: State


@dataclass(frozen=True)
class Case:
    """A network of another project and the network of ours that must give the same outputs.

    Attributes:
        peer: Name of the project's package.
        network: Readable call that builds the project's network.
        model: Name of our network.
        options: Options of our network.
        theirs: Function that builds the project's network.
        layers: Layers of the backbone to compare instead of the logits.
        divisible: Whether the project's network only takes sizes that are multiples of the output stride.
        adapts: Whether the weights are for RGB and ours have to adapt to another number of channels.
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
        """The call that builds our network."""
        return f"{self.model}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"

    def __str__(self) -> str:
        return f"{self.network} = {self.text}"

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Image sizes, one even and one odd. With ASPP, one is wide and one is high.

        Rates larger than the feature map would have no effect.
        """
        options = {} if self.layers else MODELS[self.model].resolve(self.options)
        return sizes_for(options, divisible=self.divisible)

    def ours(self, state: State) -> nn.Module:
        """Build our network with these weights. Raises RuntimeError if a name or a shape does not fit."""
        weights: dict[str, Any] = {"weights_backbone" if self.layers else "weights": state} if self.adapts else {}
        model = segnets.create_model(self.model, num_classes=NUM_CLASSES, **self.options, **weights)
        module: nn.Module = model
        if self.layers:
            module = segnets.IntermediateLayerGetter(model.backbone, {path: path for path in self.layers})
        if not self.adapts:
            one_sided = module.state_dict().keys() ^ state.keys()  # a strict load accepts missing counters
            if one_sided:
                raise RuntimeError(f"names on one side only: {', '.join(sorted(one_sided))}")
            module.load_state_dict(state, strict=True)
        return module.eval()


def sizes_for(options: Mapping[str, Any], *, divisible: bool) -> list[tuple[int, int]]:
    """Return the sizes of `Case.sizes` for a network with these resolved options."""
    if "atrous_rates" not in options:
        return [(64, 96), (96, 160) if divisible else (65, 97)]
    long = (max(options["atrous_rates"]) + 2) * options["output_stride"]
    odd = 0 if divisible else 1
    return [(32, long), (long + odd, 32 + odd)]


@dataclass(frozen=True)
class Parity:
    """Result of a comparison.

    Attributes:
        largest: Largest absolute difference by dtype.
        reference: Largest absolute output.
    """

    largest: Mapping[torch.dtype, float]
    reference: float

    @property
    def holds(self) -> bool:
        return all(difference <= LIMITS[dtype] for dtype, difference in self.largest.items())


def measure(case: Case, dtypes: Iterable[torch.dtype] = tuple(LIMITS)) -> Parity:
    """Run both networks and compare all outputs. Raises ValueError if names or shapes of the outputs differ."""
    theirs = case.theirs()
    ours = case.ours(theirs.state)
    theirs.module.eval()
    differences, reference = dict.fromkeys(dtypes, 0.0), 0.0
    for dtype in differences:
        ours.to(dtype)
        theirs.module.to(dtype)
        channels = case.options.get("in_channels", 3)
        differences[dtype], largest = run_both(ours, theirs.run, case.sizes, channels, dtype)
        reference = max(reference, largest)
    return Parity(differences, reference)


def run_both(
    ours: Callable[[Tensor], State],
    theirs: Callable[[Tensor], State],
    sizes: Iterable[tuple[int, int]],
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, float]:
    """Run two networks on random images; return the largest difference and the largest output of `theirs`.

    Raises ValueError if names or shapes of the outputs differ, or a value is not finite.
    """
    difference, reference = 0.0, 0.0
    for size in sizes:
        x = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0)).to(dtype)
        with torch.inference_mode():
            got, expected = ours(x), theirs(x)
        shapes = [{name: tuple(tensor.shape) for name, tensor in outputs.items()} for outputs in (got, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"outputs {shapes[0]}, expected {shapes[1]}")
        for name, tensor in expected.items():
            difference = max(difference, _largest(got[name] - tensor))
            reference = max(reference, _largest(tensor))
    return difference, reference


def _largest(x: Tensor) -> float:
    if not x.isfinite().all():
        raise ValueError("not all outputs are finite")
    return x.abs().max().item()


def check(case: Case) -> None:
    """Assert that both networks of a case give the same outputs."""
    parity = measure(case)
    assert 1 <= parity.reference <= 100, f"outputs up to {parity.reference:.3g} are a poor test of a limit of 1e-4"
    assert parity.holds, f"{case}: {parity}"


@dataclass(frozen=True)
class Change:
    """A case with one option changed, which must fail; `case` is the changed one."""

    option: str
    before: Any
    after: Any
    case: Case

    def __str__(self) -> str:
        return f"{self.option}={self.after!r} in place of {self.before!r}, {self.case.network}"


# Options that the weights do not show -> another value.
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
    """Return, per option that the weights do not show, the first case of each output stride and head that sets it."""
    changes: dict[tuple[object, ...], Change] = {}
    for case in cases:
        for option, other in OTHERS.items():
            if option not in case.options or (option == "downsample" and case.options.get("output_stride") == 32):
                continue  # without dilation both kinds of average pooling are the same
            before = case.options[option]
            after = other(before)
            options = {**case.options, option: after}
            key = (option, case.model.partition("_")[0], case.options.get("output_stride"))
            changes.setdefault(key, Change(option, before, after, replace(case, options=options)))
    return list(changes.values())


def difference_of(change: Change) -> float:
    """Return the largest difference between the outputs with the option changed."""
    return measure(change.case, [torch.float32]).largest[torch.float32]


def check_differs(change: Change) -> None:
    """Assert that the outputs differ by far more than the limit for unchanged cases."""
    assert difference_of(change) > 100 * LIMITS[torch.float32]


def randomised(module: nn.Module, *, gain: float, within: str = "") -> nn.Module:
    """Randomise every tensor of a module and scale the convolutions below `within` by `gain`.

    Without the gain, the residual branches of a ResNet add up to values in the thousands.
    """
    randomise_(module)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.ndim == 4 and name.startswith(within):
                tensor.mul_(gain)
    return module


def with_norms(module: nn.Module, make: NormLayer, *, but: type[nn.Module] | tuple[()] = ()) -> nn.Module:
    """Replace the batch norms of a module, except inside modules of type `but`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make(child.num_features))
        elif not isinstance(child, but):
            with_norms(child, make, but=but)
    return module


def renamed(state: Mapping[str, Tensor], rules: Rules) -> State:
    """Return copies of the tensors under our names; the first matching rule applies.

    Raises KeyError for a name without a rule, and for two names that become one.
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
    """Return the installed version of a package."""
    return importlib.metadata.version(peer)


def absent(peer: str) -> list[str]:
    """Return the modules of a peer that are not installed."""
    return [module for module in MODULES[peer] if importlib.util.find_spec(module) is None]


def needs(peer: str) -> pytest.MarkDecorator:
    """Return a mark that skips tests if the project is not installed."""
    missing = absent(peer)
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: make test-peers")
