"""Find and run the code blocks of a Markdown page."""

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
    """Return the (language, code) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def the_block(blocks: Sequence[tuple[str, str]], language: str, word: str) -> str:
    """Return the only block in a language that contains `word`."""
    found = [text for each, text in blocks if each == language and word in text]
    assert len(found) == 1, f"{len(found)} {language} blocks with {word}"
    return found[0]


def run(command: Sequence[str], folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Run a command, which must succeed, with this Python's programs first on the path.

    Args:
        command: Program and arguments.
        folder: Working directory.
        more: Further environment variables.

    Returns:
        The standard output.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **(more or {})}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bash(code: str, folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Run a script as `run` does, with a `make` that uses our Makefile and installs the module into `folder`."""
    prefix = Path(sys.executable).parent.parent
    options = f'VENV="{prefix}" SITE_PACKAGES="{folder}/site-packages" -o "{prefix}/.installed"'
    preamble = f'make() {{ command make -C "{ROOT}" {options} "$@"; }}\n'
    (ROOT / "build" / "cpp").mkdir(parents=True, exist_ok=True)
    with FileLock(ROOT / "build" / "cpp" / ".lock"):  # another test process may be building
        return run(["bash", "-euc", preamble + code], folder, more)
