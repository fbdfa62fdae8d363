"""`segnets check-data DATA`: find problems in a data set before training on it."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segnets.commands._common import Subparsers, add_command
from segnets.commands._progress import Progress
from segnets.console import escape_controls, progress
from segnets.files import atomic_write, check_writable_target

if TYPE_CHECKING:
    from segnets.data import DataSet
    from segnets.data.check import DataReport


def add(commands: Subparsers[Any]) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "check-data",
        run,
        summary="check images and masks before training on them",
        description="Read every image and mask of a data set, count the pixels of each class, and report every file "
        "that would break training, with the fix. The exit status is 1 if there are errors. If shards are "
        "on a server, 200 images per split are read.",
        examples="""
        segnets check-data DATA
        segnets check-data DATA --classes sky,road,car --ignore 255 --out samples.png
        segnets check-data DATA --json
        """,
    )
    add_data(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a picture (PNG) of samples with their masks")
    parser.add_argument("--all", action="store_true", help="read every image of shards on a server too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_data(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare the arguments that specify a data set, for every command that reads one."""
    parser.add_argument("data", metavar="DATA", help="folder with train/images, train/masks, val/... and dataset.toml")
    parser.add_argument(
        "--classes", type=_names, metavar="NAME,NAME", help="names of the classes; default: as in dataset.toml"
    )
    parser.add_argument(
        "--ignore",
        type=_values,
        action="extend",
        metavar="ID",
        help="value in masks that marks pixels without a class; separate several with commas. Default: as in "
        "dataset.toml. 255 is always ignored",
    )


def open_named(options: argparse.Namespace) -> DataSet:
    """Return the data set that the arguments of `add_data` specify.

    Raises:
        DataError: If it can't be opened.
    """
    from segnets.data import open_data

    # COCO's annotations take half a minute.
    with progress("segnets", f"listing {options.data}"), Progress() as shown:
        return open_data(options.data, classes=options.classes, ignore=options.ignore, progress=indexing(shown.tell))


def indexing(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    """Return the callback of `open_data` that tells how many shards are indexed, if that is slow."""
    from segnets.training.progress import SlowWork

    return SlowWork(tell, "shards indexed")


def run(options: argparse.Namespace) -> int:
    """Print the report; return 0, or 1 if it has errors."""
    from segnets.data.dataset import HOW_TO_SPLIT, WHOLE

    data = open_named(options)
    if options.out is not None:
        check_writable_target(options.out)  # fail before reading files, which can take minutes
    report = checked(data, all_samples=options.all)
    if options.out is not None:
        _write_picture(options.out, data, report)
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        for line in report.lines():
            print(escape_controls(line.replace("\n", "\\n")))  # file names may have line feeds
        if data.splits.keys() == {WHOLE}:
            print(f"There are no splits. {HOW_TO_SPLIT}")
        if options.out is not None:
            print(escape_controls(f"samples with their masks: {options.out}"))
    return 0 if report.ok else 1


def checked(data: DataSet, *, all_samples: bool = False) -> DataReport:
    """Return the report of a data set, with progress on stderr."""
    from segnets.data.check import check_data

    with Progress() as shown:

        def count(done: int, total: int) -> None:
            shown.total = total
            shown.count(done)

        return check_data(data, all_samples=all_samples, progress=count)


def _write_picture(path: Path, data: DataSet, report: DataReport) -> None:
    from PIL import Image

    from segnets.commands._samples import draw_samples

    content = io.BytesIO()
    Image.fromarray(draw_samples(data, report)).save(content, "PNG")
    with atomic_write(path) as file:
        file.write(content.getbuffer())


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r}: expected names separated by commas")
    return names


def _values(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers from 0, separated by commas")
    return [int(part) for part in parts]
