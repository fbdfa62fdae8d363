"""`weights-tools export-torchvision SRC DST`, and the same for the other projects."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from weights_tools.commands.answer import PROJECTS, print_answer

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]


def add(commands: Commands) -> None:
    """Declare one command for each project."""
    for project in PROJECTS:
        parser = commands.add_parser(
            f"export-{project}",
            help=f"the way back: a state dict that {project} loads strictly",
            description=f"Write a file of segnets as a state dict of {project}, tensors byte for byte the same.",
        )
        parser.add_argument("source", metavar="SRC", help="a .safetensors of segnets")
        parser.add_argument("target", metavar="DST", help="a .pth or .pt as torch.save writes them, or .safetensors")
        parser.add_argument("--force", action="store_true", help="replace DST if it exists")
        parser.add_argument("--json", action="store_true", help="answer in JSON")
        parser.set_defaults(run=run, project=project)


def run(options: argparse.Namespace) -> int:
    """Return 0; what the project has no network for raises."""
    from weights_tools import export

    done = export(options.source, options.target, project=options.project, overwrite=options.force)
    print_answer(done.to_json() if options.json else str(done))
    return 0
