"""`weights-tools compare SRC DST --with PROJECT`."""

from __future__ import annotations

import argparse
from typing import Any

from weights_tools.commands._common import PROJECTS, Subparsers, named_value, print_result

_MAX_SIDE = 1 << 16


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "compare",
        help="compare a converted file with its source, run in its own project's network",
        description="Run SRC in its own project's network and DST, the file converted from it, in segnets, on the same "
        "images. Exit status: 0 if the outputs are the same, 1 if they differ or can't be compared.",
    )
    parser.add_argument("source", metavar="SRC", help="the checkpoint that was converted")
    parser.add_argument("target", metavar="DST", help="the .safetensors file that `convert` wrote")
    parser.add_argument(
        "--with", dest="project", required=True, choices=PROJECTS, help="project of SRC; must be installed"
    )
    parser.add_argument(
        "--size",
        action="append",
        type=_size,
        metavar="HxW",
        help="size of the images in pixels; may be repeated; default: even and odd sizes that suit the network",
    )
    parser.add_argument(
        "--argument",
        action="append",
        default=[],
        type=named_value,
        metavar="NAME=VALUE",
        help="argument of the project's network, for example encoder_output_stride=16; may be repeated; default: "
        "what DST records",
    )
    parser.add_argument("--record", action="store_true", help="write the result into DST; its tensors stay the same")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report; return 0 if the outputs are the same, else 1."""
    from weights_tools import compare

    report = compare(
        options.source,
        options.target,
        project=options.project,
        sizes=options.size,
        arguments=dict(options.argument),
        record=options.record,
    )
    print_result(report.to_json() if options.json else str(report))
    return 0 if report.holds else 1


def _size(text: str) -> tuple[int, int]:
    height, by, width = text.partition("x")
    if not (by and all(part.isascii() and part.isdecimal() and len(part) < 6 for part in (height, width))):
        raise argparse.ArgumentTypeError(f"{text!r}: expected HxW, for example 64x96")
    size = int(height), int(width)
    if not all(1 <= length <= _MAX_SIDE for length in size):
        raise argparse.ArgumentTypeError(f"{text!r}: expected sides of 1 to {_MAX_SIDE:,}")
    return size
