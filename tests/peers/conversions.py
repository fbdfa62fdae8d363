"""Checkpoints of other projects' networks, saved as they save, converted, loaded, and run beside the original.

The files `test_convert_<layout>.py` have the lists, which their tests run and `python -m tests.peers.layouts` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segnets
import weights_tools
from segnets.card import ModelConfig
from segnets.registry import BACKBONES, MODELS
from tests.peers.compare import LIMITS, OTHERS, Case, Parity, State, Theirs, absent, largest, sizes_for
from weights_tools._reports import ConversionReport
from weights_tools.check.network import build_network
from weights_tools.recognise.layouts.key_map import NetworkTable

LIMIT = LIMITS[torch.float32]
# Writes a network into a folder, as its project does, and returns the file.
Save = Callable[[nn.Module, Path], Path]


def state_dict(module: nn.Module, folder: Path) -> Path:
    """The bare state dict, as most people save."""
    torch.save(module.state_dict(), folder / "w.pth")
    return folder / "w.pth"


@dataclass(frozen=True)
class Conversion:
    """One network of another project in a file, and what the converted file must be.

    peer: the package that has the network; "" where it was put together after a description.
    layout, origin: by what it is recognised; no origin for torchvision, whose layout is no table.
    network: what is built, for people; theirs: builds it. model: ours.
    save, saved: how it gets into a file, and that for people.
    options: what somebody who knows the network says with --option. asked: what he says with --layout.
    layers: of the backbone, converted alone and compared by them.
    divisible: it takes images of multiples of the output stride only.
    """

    peer: str
    layout: str
    origin: NetworkTable | None
    network: str
    model: str
    theirs: Callable[[], Theirs]
    save: Save = state_dict
    saved: str = "state dict"
    options: Mapping[str, Any] = field(default_factory=dict)
    asked: str = "auto"
    layers: tuple[str, ...] = ()
    divisible: bool = False

    @property
    def of(self) -> str:
        """The network's name in the layout."""
        return self.model if self.origin is None else self.origin.name

    def __str__(self) -> str:
        said = "".join(f" {name}={value}" for name, value in self.options.items())
        alone = ", backbone alone" if self.layers else ""
        return f"{self.layout}: {self.network}, {self.saved}{alone}{said}"


@dataclass(frozen=True)
class Converted:
    """A conversion that was done. theirs: the network that was saved, in eval mode."""

    conversion: Conversion
    theirs: Theirs
    report: ConversionReport
    path: Path


def converted(conversion: Conversion, folder: Path) -> Converted:
    """Build, save, convert."""
    if missing := [] if not conversion.peer else absent(conversion.peer):
        pytest.skip(f"{', '.join(missing)} not installed: make test-peers")
    theirs = conversion.theirs()
    theirs.module.eval()
    source = conversion.save(theirs.module, folder)
    theirs.module.eval()  # a way of saving may have trained it
    report = weights_tools.convert(
        source,
        folder / "converted.safetensors",
        layout=conversion.asked,
        options=conversion.options,
        backbone_only=bool(conversion.layers),
    )
    if (report.layout, report.model) != (conversion.layout, conversion.model):
        raise ValueError(f"{conversion} became a {report.model} by the layout {report.layout}")
    if conversion.layout != "torchvision" and conversion.origin is None:
        raise ValueError(f"{conversion} has no origin")
    return Converted(conversion, theirs, report, folder / "converted.safetensors")


def measure(done: Converted, model: nn.Module | None = None) -> Parity:
    """Run both. model: another network than the one in the file. Raises ValueError for other maps than theirs."""
    ours = segnets.load(done.path) if model is None else model
    sizes = sizes_for(done.report.options, divisible=done.conversion.divisible)
    difference, reference = 0.0, 0.0
    for size in sizes[:1] if model is not None else sizes:
        x = torch.randn(1, _channels(done), *size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected, got = done.theirs.run(x), _run(ours, x, done.conversion.layers)
        if {n: t.shape for n, t in got.items()} != {n: t.shape for n, t in expected.items()}:
            raise ValueError(f"{done.conversion}: other maps")
        for name, tensor in expected.items():
            difference = max(difference, largest(got[name] - tensor))
            reference = max(reference, largest(tensor))
    return Parity({torch.float32: difference}, reference)


def _channels(done: Converted) -> int:
    channels = done.report.options.get("in_channels", 3)
    assert isinstance(channels, int)
    return channels


def _run(ours: nn.Module, x: Tensor, layers: tuple[str, ...]) -> State:
    if layers:
        features = getattr(ours, "features", ours)
        getter = segnets.IntermediateLayerGetter(features, {path: path for path in layers})
        return dict(getter(x))
    result = ours(x)
    return {"logits": result} if isinstance(result, Tensor) else dict(result)


def check(conversion: Conversion, folder: Path) -> None:
    """The test of a conversion."""
    done = converted(conversion, folder)
    _check_origin(done)
    parity = measure(done)
    assert 0.5 <= parity.reference <= 100, f"results up to {parity.reference:.3g} say little about a limit of 1e-4"
    assert parity.holds, f"{conversion}: {parity}"


def _check_origin(done: Converted) -> None:
    """What no tensor shows was said aloud, or chosen."""
    origin = done.conversion.origin
    if origin is None or done.conversion.layers or not origin.head:
        return
    notes = " ".join(done.report.notes)
    for name, value in origin.choices.items():
        if name in done.report.options and name not in done.conversion.options:
            assert f"{name}={done.report.options[name]}" in notes
            assert value is None or done.report.options[name] == value


@dataclass(frozen=True)
class OtherOption:
    """The tensors of a conversion under another value of an option. difference: from the results of the original."""

    option: str
    before: Any
    after: Any
    difference: float


# Far from the others: the effect of an eps is small beside variances of about 1.
_OTHERS: dict[str, Callable[[Any], Any]] = {
    **OTHERS,
    **dict.fromkeys(("norm_eps", "head_norm_eps", "aspp_norm_eps"), lambda _: 1e-2),
    "output_stride": lambda value: 16 if value == 8 else 8,
}


def under_other_options(done: Converted) -> Iterator[OtherOption]:
    """The converted tensors with one option changed that no tensor shows, for each such option."""
    tensors = {name: tensor.clone() for name, tensor in segnets.load(done.path).state_dict().items()}
    model, options = done.report.model, dict(done.report.options)
    known = {**(BACKBONES[model].geometry if model in BACKBONES else {}), **options}
    for option, other in _OTHERS.items():
        if option not in known or _changes_nothing(option, known, model):
            continue
        after = other(known[option])
        changed = build_network(ModelConfig(model, {**options, option: after}), tensors)
        yield OtherOption(option, known[option], after, measure(done, changed).largest[torch.float32])


def _changes_nothing(option: str, options: Mapping[str, Any], model: str) -> bool:
    """Whether this network is too plain for the option to mean something."""
    undilated = options.get("output_stride", 32) == 32
    fixed = options.get("backbone_stages", 4) != 4 and option == "output_stride"
    basic = option == "stride_in_1x1" and model.endswith(("resnet18", "resnet34"))
    plain = option == "downsample" and options[option] == "conv"
    dilating = option in ("downsample", "first_block_dilation", "basic_block_dilation")
    return fixed or basic or plain or (dilating and undilated)


def open_options(case: Case, origins: tuple[NetworkTable, ...]) -> dict[str, Any]:
    """What somebody who knows this network has to say of it: the options that no tensor shows."""
    known = {name for origin in origins if origin.head == case.model.partition("_")[0] for name in origin.choices}
    return {name: value for name, value in MODELS[case.model].resolve(case.options).items() if name in known}


def of_case(
    case: Case, layout: str, origins: tuple[NetworkTable, ...], origin: NetworkTable, save: Save, saved: str
) -> Conversion:
    """The conversion of a network that is compared directly, too."""
    return Conversion(
        case.peer,
        layout,
        origin,
        case.network,
        case.model,
        case.theirs,
        save,
        saved,
        open_options(case, origins),
        divisible=case.divisible,
    )


def logits(module: nn.Module) -> Callable[[Tensor], State]:
    """How a classifier runs."""
    return partial(_logits, module)


def _logits(module: nn.Module, x: Tensor) -> State:
    result = module(x)
    return {"logits": result if isinstance(result, Tensor) else result.logits}
