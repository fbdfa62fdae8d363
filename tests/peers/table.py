"""Table of all comparisons with other projects: `python -m tests.peers.table`, with `--write` docs/parity.md.

The command computes all figures on one thread. The last digits differ between CPUs.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.peers import page, test_mmseg, test_smp, test_timm, test_torchvision, test_transformers
from tests.peers.compare import (
    LIMITS,
    MODULES,
    Case,
    Change,
    difference_of,
    measure,
    version,
    with_one_option_changed,
)

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
FILES = (test_timm, test_smp, test_mmseg, test_transformers, test_torchvision)
CASES: list[Case] = [case for file in FILES for case in file.CASES]

HEAD = f"""# Parity with other projects

`make parity` computes this page, and `make test-peers` tests it. Each network of another project is built with
every parameter and buffer randomised. All of its tensors are renamed and loaded into our network, and both run on the
same images: one of even and one of odd size, or two that the other project accepts. The images are large enough for
every atrous rate to reach another pixel. The logits are compared at the size of the image. A backbone alone is
compared by the feature maps of its stages, and ours is then listed as an FCN. Equal means that no value differs by
more than {LIMITS[torch.float32]:g} in float32 and {LIMITS[torch.float64]:g} in float64.

The networks that torchvision has builders for are equal bit for bit and are not repeated here (`tests/models`).
"""

CHANGES = """## The same tensors under a different option

A strict load can't detect these options. If one of them is changed, the outputs of the same tensors differ by:

| network | option | difference |
|---|---|---|"""

LIMITS_OF_THIS = """## Not compared

- "VainF" is composed of torchvision's parts, following a description of VainF/DeepLabV3Plus-Pytorch, which is on no
  package index. Equality with that project itself is not shown.
- None of these projects has a PSPNet head without aligned corners on a MobileNetV3, or `pool_norm=False` in
  DeepLabV3+.
- Networks are compared in eval mode. Dropout and statistics gathered in training are not compared.
"""


def versions() -> str:
    """Return the installed versions, one per line."""
    names = ["torch", *MODULES]
    return "\n".join(f"- {name} {version(name)}" for name in sorted(names))


def lines() -> Iterator[str]:
    """Yield the page in pieces. Raises RuntimeError if a comparison fails."""
    yield HEAD
    yield f"Versions:\n\n{versions()}\n"
    for peer, cases in itertools.groupby(CASES, key=lambda case: case.peer):
        yield f"## {peer} {version(peer)}\n"
        yield "| their network | ours | float32 | float64 | largest result | equal |\n|---|---|---|---|---|---|"
        for case in cases:
            yield _row(case)
        yield ""
    yield CHANGES
    for file in FILES:
        for change in with_one_option_changed(file.CASES):
            yield _changed_row(change)
    yield "\n" + LIMITS_OF_THIS.rstrip("\n")


def _row(case: Case) -> str:
    parity = measure(case)
    if not parity.holds:
        raise RuntimeError(f"{case}: {parity}")
    differences = " | ".join(f"{parity.largest[dtype]:.1e}" if parity.largest[dtype] else "0" for dtype in LIMITS)
    return f"| {case.network} | `{case.text}` | {differences} | {parity.reference:.1f} | yes |"


def _changed_row(change: Change) -> str:
    option = f"`{change.option}={change.after!r}` in place of `{change.before!r}`"
    return f"| {change.case.peer}: {change.case.network} | {option} | {difference_of(change):.2g} |"


if __name__ == "__main__":
    sys.exit(page.make(PAGE, lines(), target="parity", about=__doc__, networks=len(CASES)))
