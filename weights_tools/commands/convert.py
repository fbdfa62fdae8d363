"""`weights-tools convert SRC DST`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from weights_tools.commands.answer import PROJECTS, named_value, natural, print_answer

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]

# Beside the code that knows them, which imports torch; a test compares.
LAYOUTS = ("allentdan", "mmseg", "navifra", "segnets", "smp", "timm", "torchvision", "transformers", "vainf")


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "convert",
        help="write a self-describing .safetensors",
        description="Write a self-describing .safetensors, or say why not. SRC stays as it is.",
    )
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("target", metavar="DST")
    _add_what_it_is(parser)
    _add_what_is_wanted(parser)
    _add_proof(parser)
    parser.set_defaults(run=run, wrong_call=parser.error)


def _add_what_it_is(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what SRC is, where it does not say so")
    group.add_argument("--layout", default="auto", choices=("auto", *LAYOUTS), help="where the weights come from")
    group.add_argument("--key", help="which dictionary holds the weights, if there are several")
    group.add_argument(
        "--option",
        action="append",
        default=[],
        type=named_value,
        metavar="NAME=VALUE",
        help="what no tensor shows, output_stride=16 say; may be repeated",
    )
    group.add_argument("--classes", metavar="FILE", help="the names of its classes, one per line")
    group.add_argument(
        "--allow-nonfinite", action="store_true", help="accept NaN and other values of no trained network"
    )


def _add_what_is_wanted(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what DST is to be")
    group.add_argument("--backbone-only", action="store_true", help="leave every head out, whatever it is")
    group.add_argument("--drop-aux", action="store_true", help="leave the auxiliary classifier out")
    group.add_argument(
        "--num-classes", type=natural, metavar="N", help="make the last layers afresh, for N classes, if it has others"
    )
    group.add_argument(
        "--remap-classes",
        metavar="FILE",
        help='JSON, {"new class": "class of before"}: carry these rows of the last layers over; null makes one afresh',
    )
    group.add_argument("--dtype", choices=("float32", "float16", "bfloat16", "float64"), help="cast; default: keep")
    group.add_argument("--force", action="store_true", help="replace DST if it exists")
    group.add_argument("--json", action="store_true", help="answer in JSON")


def _add_proof(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("proof, without which nothing is written")
    group.add_argument(
        "--golden", metavar="FILE", help="a .safetensors with an input and the output that the source gave for it"
    )
    group.add_argument("--golden-tolerance", type=float, metavar="T", help="times the largest result; default: 1e-4")
    group.add_argument("--with", dest="project", choices=PROJECTS, help="run this project's own network beside it")


def run(options: argparse.Namespace) -> int:
    """Return 0; what can't be converted raises."""
    from weights_tools import convert

    if options.golden_tolerance is not None and options.golden is None:
        options.wrong_call("--golden-tolerance needs --golden, the file that it is for")
    done = convert(
        options.source,
        options.target,
        layout=options.layout,
        key=options.key,
        options=dict(options.option),
        backbone_only=options.backbone_only,
        drop_aux=options.drop_aux,
        classes=options.classes,
        num_classes=options.num_classes,
        remap_classes=options.remap_classes,
        dtype=options.dtype,
        golden=options.golden,
        golden_tolerance=options.golden_tolerance,
        compare_with=options.project,
        allow_nonfinite=options.allow_nonfinite,
        overwrite=options.force,
    )
    print_answer(done.to_json() if options.json else str(done))
    return 0
