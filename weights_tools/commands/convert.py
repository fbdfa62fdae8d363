"""`weights-tools convert SRC DST`."""

from __future__ import annotations

import argparse
from typing import Any

from weights_tools.commands._common import (
    PROJECTS,
    Subparsers,
    named_value,
    numbers,
    positive_int,
    print_result,
    resize_rule,
)

# Repeated here because segnets and the layouts import torch, which would slow down `--help`. A test compares.
LAYOUTS = ("allentdan", "mmseg", "navifra", "segnets", "smp", "timm", "torchvision", "transformers", "vainf")
DECODING_RULES = ("argmax", "threshold", "multilabel")


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "convert",
        help="convert a checkpoint to a self-describing .safetensors file",
        description="Convert a checkpoint to a self-describing .safetensors file, or explain why it can't be "
        "converted. SRC is not changed.",
    )
    parser.add_argument("source", metavar="SRC", help="the checkpoint")
    parser.add_argument("target", metavar="DST", help="the file to write, NAME.safetensors")
    _add_source_facts(parser)
    _add_changes(parser)
    _add_checks(parser)
    parser.set_defaults(run=run, wrong_call=parser.error)


def _add_source_facts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("facts about SRC that the file may lack")
    group.add_argument("--layout", default="auto", choices=("auto", *LAYOUTS), help="origin of the weights")
    group.add_argument("--key", help="dictionary that holds the weights, if the file has several")
    group.add_argument(
        "--option",
        action="append",
        default=[],
        type=named_value,
        metavar="NAME=VALUE",
        help="set an option the weights do not determine, for example output_stride=16; may be repeated",
    )
    group.add_argument("--classes", metavar="FILE", help="text file with one class name per line")
    group.add_argument(
        "--decoding",
        choices=DECODING_RULES,
        help="rule that turns logits into ids. argmax: the largest logit. threshold: a sigmoid and a threshold, for "
        "one channel. multilabel: the same per class, with a plane for each. Default: the rule in SRC's own "
        "config; without one, argmax, or threshold for one channel",
    )
    group.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="probability for --decoding threshold or multilabel, between 0 and 1; default: 0.5",
    )
    group.add_argument(
        "--resize",
        type=resize_rule,
        metavar="RULE",
        help="how images were resized: 520 (the short side), 480x640 (height x width), x2 (twice the image's size) or "
        "none",
    )
    for name in ("mean", "std"):
        group.add_argument(
            f"--{name}", type=numbers, metavar="R,G,B", help=f"{name} of each channel scaled to 0..1, in SRC's order"
        )
    group.add_argument(
        "--allow-nonfinite", action="store_true", help="accept NaN and other values that no trained network has"
    )


def _add_changes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("changes in DST")
    group.add_argument("--backbone-only", action="store_true", help="drop all heads")
    group.add_argument("--drop-aux", action="store_true", help="drop the auxiliary classifier")
    group.add_argument(
        "--num-classes",
        type=positive_int,
        metavar="N",
        help="reinitialise the last layers for N classes if SRC has a different number",
    )
    group.add_argument(
        "--remap-classes",
        metavar="FILE",
        help='JSON file {"new class": "old class"}: keep the old class\'s rows of the last layers; null reinitialises',
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "float64"),
        help="cast floating-point tensors; default: keep their dtype",
    )
    group.add_argument("--force", action="store_true", help="replace DST if it exists")
    group.add_argument("--json", action="store_true", help="print JSON")


def _add_checks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("checks of the outputs; DST is written only if they pass")
    group.add_argument(
        "--golden", metavar="FILE", help="a .safetensors file with an input and the source network's output for it"
    )
    group.add_argument(
        "--golden-tolerance",
        type=float,
        metavar="T",
        help="allowed difference, relative to the largest output; default: 1e-4",
    )
    group.add_argument(
        "--with", dest="project", choices=PROJECTS, help="run this project's own network and compare the outputs"
    )


def run(options: argparse.Namespace) -> int:
    """Convert, print the report and return 0."""
    from segnets.console import decoding_of
    from weights_tools import convert

    if options.golden_tolerance is not None and options.golden is None:
        options.wrong_call("--golden-tolerance needs --golden")
    report = convert(
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
        decoding=decoding_of(options),
        dtype=options.dtype,
        preprocessing=_preprocessing(options),
        golden=options.golden,
        golden_tolerance=options.golden_tolerance,
        compare_with=options.project,
        allow_nonfinite=options.allow_nonfinite,
        overwrite=options.force,
    )
    print_result(report.to_json() if options.json else str(report))
    return 0


def _preprocessing(options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the given fields of the preprocessing, or None."""
    given = {name: value for name in ("mean", "std") if (value := getattr(options, name)) is not None}
    return {**(options.resize or {}), **given} or None
