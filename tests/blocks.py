"""The code blocks of a page, run as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from tests.cmake import ROOT


def blocks_of(text: str) -> list[tuple[str, str]]:
    """(language, code) of every block between fences."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def the_block(blocks: Sequence[tuple[str, str]], kind: str, word: str) -> str:
    """The one block of this language that holds `word`."""
    found = [text for language, text in blocks if language == kind and word in text]
    assert len(found) == 1, f"{len(found)} {kind} blocks with {word}"
    return found[0]


def run(command: Sequence[str], folder: Path, more: Mapping[str, str] | None = None) -> str:
    """What the command prints, run in `folder` with this Python's programs first; it must succeed.

    more: further variables of the environment.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **(more or {})}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bash(code: str, folder: Path, more: Mapping[str, str] | None = None) -> str:
    """As `run`; `make` is run where the Makefile is, and installs the module into the reader's folder."""
    prefix = Path(sys.executable).parent.parent
    options = f'VENV="{prefix}" SITE_PACKAGES="{folder}/site-packages" -o "{prefix}/.installed"'
    preamble = f'make() {{ command make -C "{ROOT}" {options} "$@"; }}\n'
    (ROOT / "build" / "cpp").mkdir(parents=True, exist_ok=True)
    with FileLock(ROOT / "build" / "cpp" / ".lock"):  # another test process may be building, too
        return run(["bash", "-euc", preamble + code], folder, more)
