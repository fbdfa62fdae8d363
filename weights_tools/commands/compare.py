"""`weights-tools compare`: the source in its project's own network beside the converted file."""

from __future__ import annotations

import argparse
from typing import Any

from weights_tools.commands.answer import PROJECTS, named_value, print_answer

_LARGEST = 1 << 16


def add(commands: Any) -> None:
    """Add the command to the others."""
    parser = commands.add_parser(
        "compare",
        help="run the source in its project's own network beside the converted file",
        description="Run SRC in its project's own network beside DST, which it was converted to, on the same images. "
        "Exit 0 if the results are the same, 1 if they differ or can't be compared.",
    )
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("target", metavar="DST")
    parser.add_argument(
        "--with", dest="project", required=True, choices=PROJECTS, help="whose network; it has to be installed"
    )
    parser.add_argument(
        "--size",
        action="append",
        type=_size,
        metavar="HxW",
        help="of the images; may be repeated; default: even and odd ones that suit the network",
    )
    parser.add_argument(
        "--argument",
        action="append",
        default=[],
        type=named_value,
        metavar="NAME=VALUE",
        help="of the project's network, encoder_output_stride=16 say, where it is known; may be repeated; default: "
        "what DST records",
    )
    parser.add_argument("--record", action="store_true", help="write the proof into DST; its tensors stay as they are")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare, print the report; 0 if the results are the same, else 1."""
    from weights_tools._compare import compare

    report = compare(
        options.source,
        options.target,
        project=options.project,
        sizes=options.size,
        arguments=dict(options.argument),
        record=options.record,
    )
    print_answer(report.to_json() if options.json else str(report))
    return 0 if report.holds else 1


def _size(text: str) -> tuple[int, int]:
    height, by, width = text.partition("x")
    if not (by and all(part.isascii() and part.isdecimal() and len(part) < 6 for part in (height, width))):
        raise argparse.ArgumentTypeError(f"{text!r}: expected HxW, 64x96 say")
    size = int(height), int(width)
    if not all(1 <= length <= _LARGEST for length in size):
        raise argparse.ArgumentTypeError(f"{text!r}: expected sides of 1 to {_LARGEST:,}")
    return size
