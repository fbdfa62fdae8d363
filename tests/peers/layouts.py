"""Table of all supported conversions: `python -m tests.peers.layouts`, with `--write` docs/layouts.md.

All cells except the measured differences are computed without a network (`static`). A test compares the page with them.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from segnets.card import JSON
from tests.peers import (
    page,
    test_convert_mmseg,
    test_convert_own,
    test_convert_programs,
    test_convert_smp,
    test_convert_timm,
    test_convert_torchvision,
    test_convert_transformers,
)
from tests.peers.compare import LIMITS, version
from tests.peers.conversions import Conversion, converted, measure
from tests.peers.look_alikes import LOOK_ALIKES
from weights_tools.recognise.layouts import LAYOUTS
from weights_tools.recognise.layouts.network_table import NetworkTable
from weights_tools.recognise.layouts.table_layout import TableLayout

PAGE = Path(__file__).parents[2] / "docs" / "layouts.md"
FILES = (
    test_convert_torchvision,
    test_convert_timm,
    test_convert_smp,
    test_convert_mmseg,
    test_convert_transformers,
    test_convert_programs,
    test_convert_own,
)
CONVERSIONS: list[Conversion] = [conversion for file in FILES for conversion in file.CONVERSIONS]
# The project of each layout, and the part of it that runs here.
PROJECTS: Mapping[str, Callable[[], str]] = {
    "torchvision": lambda: f"torchvision {version('torchvision')}, its own networks",
    "timm": lambda: f"timm {version('timm')}, its own networks",
    "smp": lambda: f"segmentation_models_pytorch {version('segmentation_models_pytorch')}, its own networks",
    "mmseg": lambda: (
        f"mmsegmentation {version('mmsegmentation')}, its own networks; for 0.x, only the checkpoint wrapper is tested"
    ),
    "transformers": lambda: f"transformers {version('transformers')}, its own networks",
    "vainf": lambda: (
        "VainF/DeepLabV3Plus-Pytorch is on no package index and is **described, not run**: its DeepLabV3 is "
        "torchvision's under other names, and its DeepLabV3+ was written from its description, so equality with the "
        "project itself is not shown"
    ),
    "navifra": lambda: (
        "Navifra-Kerry/SemanticSegmentation-Libtorch, a C++ program: **described, not run**. torchvision's network "
        "with its eps, saved by `torch::save`. Its archives have torchvision's names, so it needs `--layout`"
    ),
    "allentdan": lambda: (
        "AllentDan/LibtorchSegmentation, a C++ program: **described, not run**. SMP's networks under that program's "
        "names, saved by `torch::save`"
    ),
    "segnets": lambda: "state dicts of segnets' own networks, without the description that a weights file has",
}
HEAD = f"""# Checkpoints from other projects

`weights-tools convert` recognises these networks by the names and shapes of their tensors. Each network was built
with its project, with every parameter and buffer randomised, and saved as the project saves it. It was then converted
and compared with the original on images of even and, if the project accepts them, odd sizes. **Networks** is the number
of networks compared, and **difference** the largest difference of any of their outputs. A conversion passes up to
{LIMITS[torch.float32]:g} in float32.

**Geometry** lists the options with which our network computes the same outputs. The layout sets them, and the file
records them. **Not shown** lists options that no tensor shows and that users of the project choose. The project's
default is used and reported; `--option NAME=VALUE` overrides it. For one network of each row, tests change every such
option in turn. The difference then exceeds the limit at least tenfold.

`make layouts` writes this page, and `make test-peers` tests it. [parity.md](parity.md) compares networks of the
projects with ours, option by option.
"""
LOOK_ALIKES_HEAD = """## Look-alikes

These networks were also built with their projects, unless noted. A network with the same names and shapes can't be
distinguished by its tensors. It is converted as the network that it resembles, and the report has a note. A golden file
(`--golden`) detects it; `compare` with the project's own network does so only if it is given the argument that differs.

| network | refused | why |
|---|---|---|"""
LIMITS_OF_THIS = """
Some differences show in no tensor, and only a golden file detects them: a different eps in the norms of a network with
torchvision's names, a different channel order, or a different normalisation of the image.
"""


@dataclass(frozen=True)
class Row:
    """A network of a layout, and the conversions that test it."""

    layout: str
    name: str
    origin: NetworkTable | None
    conversions: Sequence[Conversion]

    @property
    def static(self) -> str:
        """The row without measured values."""
        origin = self.origin
        if origin is None:
            return f"| {self.name} | names and shapes of torchvision | torchvision's | nothing |"
        bodies = {key: value for body in origin.backbones for key, value in body.required.items()}
        geometry = _options({**origin.required}) or "our defaults"
        if bodies:
            geometry += f"; on some encoders {_options(bodies)}"
        asked = "" if origin.unique else "; needs `--layout`"
        return f"| {self.name} | `{origin.signature}`{asked} | {geometry} | {_open(origin)} |"


def _options(options: Mapping[str, JSON]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in options.items())


def _open(origin: NetworkTable) -> str:
    known = [f"`{name}={'ours' if value is None else value}`" for name, value in origin.choices.items()]
    return ", ".join(known) or "nothing"


def rows() -> Iterator[Row]:
    for name, layout in LAYOUTS.items():
        mine = [each for each in CONVERSIONS if each.layout == name]
        if isinstance(layout, TableLayout):
            for origin in layout.networks:
                yield Row(name, origin.name, origin, [each for each in mine if each.origin is origin])
        else:
            for model in dict.fromkeys(each.model for each in mine):
                yield Row(name, model, None, [each for each in mine if each.model == model])


def smallest() -> list[Conversion]:
    """Return one conversion per network of a table: on a small backbone, and of a whole network if possible."""
    return [
        min(row.conversions, key=lambda each: (bool(each.layers), not re.search(r"resnet18|small", each.model)))
        for row in rows()
        if row.origin is not None and row.conversions
    ]


def worst(conversions: Sequence[Conversion]) -> float:
    """Return the largest difference. Raises RuntimeError if a comparison fails."""
    largest = 0.0
    for conversion in conversions:
        with tempfile.TemporaryDirectory() as folder:
            parity = measure(converted(conversion, Path(folder)))
        if not parity.holds:
            raise RuntimeError(f"{conversion}: {parity}")
        largest = max(largest, parity.largest[torch.float32])
    return largest


def lines() -> Iterator[str]:
    """Yield the page in pieces."""
    yield HEAD
    every = list(rows())
    for layout in LAYOUTS:
        yield f"## {layout}\n\n{PROJECTS[layout]()}.\n"
        yield "| network | recognised by | geometry | not shown | networks | difference |\n|---|---|---|---|---|---|"
        for row in every:
            if row.layout == layout:
                difference = worst(row.conversions)
                shown = f"{difference:.1e}" if difference else "0"
                yield f"{row.static} {len(row.conversions)} | {shown} |"
        saved = dict.fromkeys(each.saved for each in CONVERSIONS if each.layout == layout)
        yield f"\nSaved as: {', '.join(saved)}.\n"
    yield LOOK_ALIKES_HEAD
    yield from look_alike_rows()
    yield LIMITS_OF_THIS.rstrip("\n")


def look_alike_rows() -> Iterator[str]:
    for each in LOOK_ALIKES:
        yield f"| {each} | {'yes' if each.refused else 'no'} | {each.why} |"


if __name__ == "__main__":
    sys.exit(page.make(PAGE, lines(), target="layouts", about=__doc__, networks=len(CONVERSIONS)))
