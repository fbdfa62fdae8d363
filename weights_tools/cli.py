"""The command `weights-tools inspect | convert | compare`. Results on stdout, the rest on stderr; exit 0, 1 or 2."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from weights_tools.commands import compare

_PROGRAM = "weights-tools"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if it worked, 1 for a file that is or would be refused, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    from segnets.console import run_command  # imports torch, which takes a second; `--help` need not wait for it

    return run_command(lambda: _run(options), _PROGRAM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Foreign checkpoints in: look at them, convert them. Nothing of a file is ever executed.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    inspect = commands.add_parser(
        "inspect",
        help="say what a file holds, and whether it could be converted",
        description="Say what a file holds. Exit 0 if it could be converted, 1 if it would be refused.",
    )
    inspect.add_argument("file", metavar="FILE")
    inspect.add_argument("--quick", action="store_true", help="read the structure only, not the tensors")

    convert = commands.add_parser("convert", help="write a self-describing .safetensors")
    convert.add_argument("source", metavar="SRC")
    convert.add_argument("target", metavar="DST")
    convert.add_argument(
        "--layout",
        default="auto",
        choices=("auto", "mmseg", "smp", "torchvision", "vainf"),
        help="where the weights come from",
    )
    convert.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what no tensor shows, output_stride=16 say; may be repeated",
    )
    convert.add_argument("--classes", metavar="FILE", help="the names of the classes, one per line")
    convert.add_argument("--dtype", choices=("float32", "float16", "bfloat16", "float64"), help="cast; default: keep")
    convert.add_argument(
        "--allow-nonfinite", action="store_true", help="accept NaN and other values of no trained network"
    )
    convert.add_argument("--force", action="store_true", help="replace DST if it exists")
    for command in (inspect, convert):
        command.add_argument("--key", help="which dictionary holds the weights, if there are several")
        command.add_argument("--json", action="store_true", help="answer in JSON")
    compare.add(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    if "run" in options:
        return int(options.run(options))
    from weights_tools import convert, inspect

    if options.command == "inspect":
        report = inspect(options.file, key=options.key, data=not options.quick)
        _print(report.to_json() if options.json else str(report))
        return 0 if report.refused is None else 1
    done = convert(
        options.source,
        options.target,
        layout=options.layout,
        key=options.key,
        classes=options.classes,
        allow_nonfinite=options.allow_nonfinite,
        force=options.force,
        dtype=options.dtype,
        options=_chosen(options.option),
    )
    _print(done.to_json() if options.json else str(done))
    return 0


def _chosen(arguments: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, the value in JSON or a bare word."""
    from segnets.errors import WeightsError

    chosen: dict[str, Any] = {}
    for argument in arguments:
        name, by, text = argument.partition("=")
        if not name or not by or not text:
            raise WeightsError(f"--option {argument}: expected NAME=VALUE, output_stride=16 say")
        try:
            chosen[name] = json.loads(text)
        except ValueError:
            chosen[name] = text
    return chosen


def _print(answer: object) -> None:
    from segnets.console import one_line

    print(one_line(answer) if isinstance(answer, str) else json.dumps(answer, indent=2, sort_keys=True), flush=True)


if __name__ == "__main__":
    sys.exit(main())
