"""Print a computed page of docs/, or write it once all of its comparisons passed."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from segnets.files import atomic_write
from tests.peers.compare import MODULES, absent


def make(page: Path, lines: Iterable[str], *, target: str, about: str | None, networks: int) -> int:
    """Print the lines of a page or, with `--write`, write them to the page.

    Args:
        page: Path of the page.
        lines: Lines of the page, computed one after the other.
        target: Target of the Makefile that installs the projects and writes the page.
        about: Description of the command.
        networks: Number of networks, for the last message.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--write", action="store_true", help=f"write {page.name} instead of printing it")
    write = parser.parse_args().write
    missing = [module for peer in MODULES for module in absent(peer)]
    if missing:
        print(f"{', '.join(missing)} not installed: make {target} installs them", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    start = time.monotonic()
    computed = []
    for line in lines:
        computed.append(line)
        print(line, flush=True, file=sys.stderr if write else sys.stdout)
    if write:
        with atomic_write(page) as file:
            file.write(("\n".join(computed) + "\n").encode())
    print(f"{networks} networks in {time.monotonic() - start:.0f} s", file=sys.stderr)
    return 0
