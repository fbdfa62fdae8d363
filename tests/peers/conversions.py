"""Save networks of other projects as the projects do, convert the files, and compare outputs with the originals.

The lists of conversions are in `test_convert_<layout>.py`; `python -m tests.peers.layouts` prints them.
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
from tests.peers.compare import LIMITS, OTHERS, Case, Parity, State, Theirs, absent, run_both, sizes_for
from weights_tools._compare import CompareReport
from weights_tools._reports import ConversionReport
from weights_tools.check.network import build_network
from weights_tools.check.peer import PeerComparison
from weights_tools.recognise.layouts.network_table import NetworkTable

LIMIT = LIMITS[torch.float32]
# Function that saves a network in a folder, as its project does, and returns the file.
Save = Callable[[nn.Module, Path], Path]


def state_dict(module: nn.Module, folder: Path) -> Path:
    """Save the bare state dict."""
    torch.save(module.state_dict(), folder / "w.pth")
    return folder / "w.pth"


@dataclass(frozen=True)
class Conversion:
    """A saved network of another project, and what its converted file must be.

    Attributes:
        peer: Package that has the network; "" if the network was composed after a description.
        layout: Layout that recognises it.
        origin: Table that recognises it; None for torchvision, whose layout is not a table.
        network: Readable call that builds the network.
        model: Name of our network.
        theirs: Function that builds the project's network.
        save: Function that saves it.
        saved: Readable form of the saved file.
        options: Values for `--option`, known to users of the network.
        asked: Value for `--layout`.
        layers: Layers to compare, if only the backbone is converted.
        divisible: Whether the project's network only takes sizes that are multiples of the output stride.
        compared_by: Project whose own network `compare` must find the same, if any.
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
    compared_by: str = ""

    @property
    def of(self) -> str:
        """Name of the network in the layout."""
        return self.model if self.origin is None else self.origin.name

    def __str__(self) -> str:
        said = "".join(f" {name}={value}" for name, value in self.options.items())
        alone = ", backbone alone" if self.layers else ""
        return f"{self.layout}: {self.network}, {self.saved}{alone}{said}"


@dataclass(frozen=True)
class Converted:
    """A finished conversion; `theirs` is the saved network in eval mode."""

    conversion: Conversion
    theirs: Theirs
    report: ConversionReport
    source: Path
    path: Path


def converted(conversion: Conversion, folder: Path) -> Converted:
    """Build a network, save it and convert the file."""
    if missing := [] if not conversion.peer else absent(conversion.peer):
        pytest.skip(f"{', '.join(missing)} not installed: make test-peers")
    theirs = conversion.theirs()
    theirs.module.eval()
    source = conversion.save(theirs.module, folder)
    theirs.module.eval()  # some ways of saving train it
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
    return Converted(conversion, theirs, report, source, folder / "converted.safetensors")


def measure(done: Converted, model: nn.Module | None = None) -> Parity:
    """Compare outputs of the converted network, or of `model`, with the original's at one or all sizes."""
    ours = segnets.load(done.path) if model is None else model
    sizes = sizes_for(done.report.options, divisible=done.conversion.divisible)
    difference, reference = run_both(
        lambda x: _run(ours, x, done.conversion.layers),
        done.theirs.run,
        sizes if model is None else sizes[:1],
        _channels(done),
    )
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
    """Assert that a conversion gives the original's outputs, and that `compare` finds so too."""
    done = converted(conversion, folder)
    _check_notes(done)
    parity = measure(done)
    assert 0.5 <= parity.reference <= 100, f"outputs up to {parity.reference:.3g} are a poor test of a limit of 1e-4"
    assert parity.holds, f"{conversion}: {parity}"
    if conversion.compared_by:
        sizes = COMPARED_SIZES[conversion.compared_by]
        report = weights_tools.compare(done.source, done.path, project=conversion.compared_by, sizes=sizes)
        check_same(report)
        outputs = {"out", "aux"} if done.report.options.get("aux_loss") else {"out"}
        assert {each.output for each in report.measured} == outputs


# Small images; a few tests run the default sizes, which reach every dilation.
COMPARED_SIZES = {"smp": [(64, 96), (96, 64)], "mmseg": [(64, 96), (65, 33)]}


def check_same(result: CompareReport | PeerComparison) -> None:
    """Assert that outputs are the same and not all near 0, in float32 and float64."""
    assert result.holds, result.verdict
    assert all(each.largest > 1e-2 for each in result.measured)
    assert {each.dtype for each in result.measured} == {"float32", "float64"}


def _check_notes(done: Converted) -> None:
    """Assert that the report notes every default that the weights do not determine."""
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
    """The largest difference that another value of an option makes for the same tensors."""

    option: str
    before: Any
    after: Any
    difference: float


# Values of large effect: that of an eps is small for variances of about 1.
_OTHERS: dict[str, Callable[[Any], Any]] = {
    **OTHERS,
    **dict.fromkeys(("norm_eps", "head_norm_eps", "aspp_norm_eps"), lambda _: 1e-2),
    "output_stride": lambda value: 16 if value == 8 else 8,
}


def under_other_options(done: Converted) -> Iterator[OtherOption]:
    """Yield the difference that another value makes, for each option that the weights do not show."""
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
    """Return whether the option has no effect in this network."""
    undilated = options.get("output_stride", 32) == 32
    fixed = options.get("backbone_stages", 4) != 4 and option == "output_stride"
    basic = option == "stride_in_1x1" and model.endswith(("resnet18", "resnet34"))
    plain = option == "downsample" and options[option] == "conv"
    dilating = option in ("downsample", "first_block_dilation", "basic_block_dilation")
    return fixed or basic or plain or (dilating and undilated)


def open_options(case: Case, origins: tuple[NetworkTable, ...]) -> dict[str, Any]:
    """Return the options of a case that the weights do not show and a user has to pass."""
    known = {name for origin in origins if origin.head == case.model.partition("_")[0] for name in origin.choices}
    return {name: value for name, value in MODELS[case.model].resolve(case.options).items() if name in known}


def of_case(
    case: Case, layout: str, origins: tuple[NetworkTable, ...], origin: NetworkTable, save: Save, saved: str
) -> Conversion:
    """Return the conversion of a network that is also compared directly."""
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
        compared_by=layout if "mobilenet" not in case.model and not case.layers else "",
    )


def logits(module: nn.Module) -> Callable[[Tensor], State]:
    """Return a function that runs a classifier."""
    return partial(_logits, module)


def _logits(module: nn.Module, x: Tensor) -> State:
    result = module(x)
    return {"logits": result if isinstance(result, Tensor) else result.logits}
