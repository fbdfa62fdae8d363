"""Every command that writes a file refuses the paths of `tests.output_paths`, before it does any work.

`tests/test_files.py` tries every path; here one path each shows that the command asks `check_writable_target`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import segnets.cli
import weights_tools.cli
from tests.output_paths import LINK, REFUSED, state_of

# The arguments before and after the output path. The sources do not exist: the path is checked first.
COMMANDS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "weights-tools convert": (["convert", "gone.pth"], ["--force"]),
    "weights-tools export-timm": (["export-timm", "gone.safetensors"], ["--force"]),
    "segnets export": (["export", "gone.safetensors"], ["--force"]),
    "segnets join": (["join", "gone.onnx"], ["--force"]),
    "weights-tools compare --record": (["compare", "gone.pth"], ["--with", "torchvision", "--record"]),
}
WITH_FORCE = [command for command, (_, after) in COMMANDS.items() if "--force" in after]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore the SIGTERM handler, which a command sets for its own process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(command: str, target: Path, *, force: bool) -> int:
    before, after = COMMANDS[command]
    main = segnets.cli.main if command.startswith("segnets") else weights_tools.cli.main
    return main([*before, str(target), *(argument for argument in after if force or argument != "--force")])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.safetensors"
    REFUSED["link"][0](target)
    before = state_of(tmp_path)
    assert run(command, target, force=True) == 1
    assert f"{target}: {LINK}" in capsys.readouterr().err
    assert state_of(tmp_path) == before


@pytest.mark.parametrize("command", WITH_FORCE)
def test_an_existing_file_needs_force(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    assert run(command, target, force=False) == 1
    assert "exists already; remove it, choose another name, or ask to overwrite (--force)" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
