"""Table of all networks in docs/models.md.

`python -m benchmarks.models` prints the table, `--write` puts it into the page. `segnets.cost` computes its numbers on
the meta device, in a few seconds for all networks. A test in tests/family compares the page with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from segnets import cost
from segnets.builders import Builder
from segnets.registry import HEADS, MODELS, build_described

DOCUMENT = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN = "<!-- counted: python -m benchmarks.models --write -->"
END = "<!-- end of counted -->"
SIDE = 520

# Papers of the backbones, by the start of their names. Heads have theirs in their titles.
PAPERS = {
    "mobilenet_v3": "https://arxiv.org/abs/1905.02244",
    "resnet": "https://arxiv.org/abs/1512.03385",
    "resnext": "https://arxiv.org/abs/1611.05431",
    "wide_resnet": "https://arxiv.org/abs/1605.07146",
}


def row(builder: Builder) -> str:
    """Return the row of one network: its cost without and with its auxiliary classifier, and its papers."""
    name, counted = builder.name, cost(builder.name, SIDE, SIDE)
    with_aux = "none"
    if builder.head.auxiliary:
        described = build_described(name, {"aux_loss": True})
        with_aux = f"{sum(each.numel() for each in described.parameters()):,}"
    title, _, head_paper = builder.head.title.partition(", ")
    papers = f"[{title}]({head_paper}), [{builder.backbone.title}]({paper(builder.backbone.name)})"
    cells = (
        f"`{name}`",
        f"{counted.parameters:,}",
        with_aux,
        f"{counted.multiply_adds / 1e9:.3f}",
        f"{counted.output_stride}",
        papers,
    )
    return f"| {' | '.join(cells)} |"


def paper(backbone: str) -> str:
    """Return the address of a backbone's paper.

    Raises:
        ValueError: If `PAPERS` lacks it.
    """
    families = [family for family in PAPERS if backbone.startswith(family)]
    if not families:
        raise ValueError(f"{backbone}: add its paper to PAPERS in {Path(__file__).name}")
    return PAPERS[max(families, key=len)]


def table(builders: Iterable[Builder]) -> str:
    """Return the heading and the rows."""
    heading = f"| network | parameters | with auxiliary | GMAC at {SIDE}x{SIDE} | output stride | papers |"
    return "\n".join([heading, "|---|--:|--:|--:|--:|---|", *map(row, builders)])


def all_tables() -> str:
    """Return one table per head, with the networks sorted by name."""
    parts = []
    for head in HEADS:
        builders = sorted((each for each in MODELS.values() if each.head is head), key=lambda each: each.name)
        parts.append(f"### {head.title.partition(', ')[0]}\n\n{table(builders)}\n")
    return "\n".join(parts)


def split_document() -> tuple[str, str, str]:
    """Split the page: up to the first marker, between the markers, and from the second marker on.

    Raises:
        ValueError: If a marker is missing.
    """
    before, found_begin, rest = DOCUMENT.read_text().partition(BEGIN)
    between, found_end, after = rest.partition(END)
    if not found_begin or not found_end:
        raise ValueError(f"{DOCUMENT}: the lines {BEGIN!r} and {END!r} must enclose the table")
    return before + BEGIN, between.strip() + "\n", END + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{DOCUMENT.name}")
    write = parser.parse_args().write
    counted = all_tables()
    if write:
        before, _, after = split_document()
        DOCUMENT.write_text(f"{before}\n\n{counted}\n{after}")
    else:
        print(counted)


if __name__ == "__main__":
    main()
