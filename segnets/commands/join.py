"""`segnets join FILE OUT`."""

from __future__ import annotations

import argparse
from typing import Any

from segnets.commands._common import Subparsers, add_command


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "join",
        run,
        summary="join the graphs of an ONNX export into one, from image to mask",
        description="Join the graphs of an ONNX export into one graph that takes the pixels of an image and returns "
        "its mask. The masks of both are compared before the file is kept.",
        examples="segnets join model.onnx image_to_mask.onnx",
    )
    parser.add_argument("file", metavar="FILE", help="file written by `segnets export --format onnx`")
    parser.add_argument("target", metavar="OUT", help="file to write, for example image_to_mask.onnx")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def run(options: argparse.Namespace) -> int:
    """Write the joined graph and print how much was compared; return 0."""
    from segnets.deploy import join_onnx

    pixels = join_onnx(options.file, options.target, overwrite=options.force)
    print(f"{options.target}: same masks as {options.file} in all {sum(pixels)} pixels of {len(pixels)} image sizes")
    return 0
