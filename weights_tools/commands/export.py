"""`weights-tools export-torchvision SRC DST`, and the same for the other projects."""

from __future__ import annotations

import argparse
from typing import Any

from weights_tools.commands._common import PROJECTS, Subparsers, print_result


def add(commands: Subparsers[Any]) -> None:
    """Declare one command for each project."""
    for project in PROJECTS:
        parser = commands.add_parser(
            f"export-{project}",
            help=f"write a segnets file as a state dict for {project}",
            description=f"Write a segnets file as a state dict that {project} loads with strict=True. The bytes of "
            "every tensor stay the same.",
        )
        parser.add_argument("source", metavar="SRC", help="a .safetensors file that segnets wrote")
        parser.add_argument(
            "target", metavar="DST", help="the file to write: .pth or .pt (torch.save), or .safetensors"
        )
        parser.add_argument("--force", action="store_true", help="replace DST if it exists")
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=run, project=project)


def run(options: argparse.Namespace) -> int:
    """Write the state dict, print the report and return 0."""
    from weights_tools import export

    report = export(options.source, options.target, project=options.project, overwrite=options.force)
    print_result(report.to_json() if options.json else str(report))
    return 0
