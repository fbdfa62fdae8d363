"""`weights-tools fetch`: a published weights file into torch's cache."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "fetch",
        help="download a published weights file",
        description="Download a published weights file to where `weights=` looks for it, and check its hash. "
        "What broke off is resumed by the same call.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="fcn_resnet50 (the newest), fcn_resnet50:COCO_WITH_VOC_LABELS_V1, or a file name",
    )
    which.add_argument("--list", action="store_true", help="name what can be fetched")
    parser.add_argument(
        "--from", dest="url", metavar="URL", help="a mirror (http or https): a folder, or the file itself"
    )
    parser.add_argument("--to", dest="folder", metavar="FOLDER", help="another folder than torch's cache")
    parser.add_argument("--force", action="store_true", help="replace a file of this name that is another one")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="wait that long for a connection, and for the next bytes; default: %(default)g",
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fetch or list. Returns 0, or 130 after Ctrl-C; raises SegnetsError."""
    from segnets.console import escape_controls
    from weights_tools import fetch

    if options.list:
        return _list(options)
    try:
        report = fetch(
            options.name, url=options.url, folder=options.folder, force=options.force, timeout=options.timeout
        )
    except KeyboardInterrupt as error:
        print(f"weights-tools: {escape_controls(str(error)) or 'interrupted'}", file=sys.stderr)
        return 130
    print(json.dumps(report.to_json(), indent=2, sort_keys=True) if options.json else escape_controls(str(report)))
    return 0


def _list(options: argparse.Namespace) -> int:
    from segnets.catalog import CATALOG
    from segnets.errors import OutputError
    from weights_tools.fetching.find import cache_folder, full_name

    folder: Path | None
    try:
        folder = Path(options.folder) if options.folder is not None else cache_folder()
    except OutputError:  # without a home there is no cache, and so nothing in it
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
        print(json.dumps(rows, indent=2, sort_keys=True))
        return 0
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        here = "  (is there)" if row["present"] else ""
        print(f"{row['name']:<{width}}  {row['parameters']:>11,} parameters  {row['file']}{here}")
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, more than 0 and at most a day")
    return seconds
