"""`weights-tools fetch NAME`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from weights_tools.commands._common import Subparsers, print_result


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "fetch",
        help="download a published weights file",
        description="Download a published weights file to the folder where `weights=` looks for it, and check its "
        "hash. Run the command again to resume an interrupted download.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="fcn_resnet50 (its newest file), fcn_resnet50:COCO_WITH_VOC_LABELS_V1, or a file name",
    )
    which.add_argument("--list", action="store_true", help="list the published files")
    parser.add_argument(
        "--from", dest="url", metavar="URL", help="http or https address of a mirror: a folder, or the file itself"
    )
    parser.add_argument("--to", dest="folder", metavar="FOLDER", help="an existing folder; default: torch's cache")
    parser.add_argument("--force", action="store_true", help="replace a file with this name and a different hash")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for a connection, and for the next bytes; default: %(default)g",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Download or list; return 0."""
    from weights_tools import fetch

    if options.list:
        return _list(options)
    report = fetch(
        options.name, url=options.url, folder=options.folder, overwrite=options.force, timeout=options.timeout
    )
    print_result(report.to_json() if options.json else str(report))
    return 0


def _list(options: argparse.Namespace) -> int:
    from segnets.catalog import CATALOG
    from segnets.errors import OutputError
    from weights_tools.fetching.find import cache_folder, full_name

    folder: Path | None
    try:
        folder = Path(options.folder) if options.folder is not None else cache_folder()
    except OutputError:  # without a home folder there is no cache
        folder = None
    rows = [
        {
            "name": full_name(row),
            "file": row.file,
            "parameters": row.num_params,
            "url": row.url,
            "present": folder is not None and (folder / row.file).is_file(),
        }
        for row in CATALOG
    ]
    if options.json:
        print_result(rows)
        return 0
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        present = "  (present)" if row["present"] else ""
        print(f"{row['name']:<{width}}  {row['parameters']:>11,} parameters  {row['file']}{present}")
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a positive number of seconds, at most a day")
    return seconds
