"""The output of `convert`: nothing is replaced by mistake, lost, or left behind."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segnets
from segnets.errors import OutputError, WeightsError
from tests.output_paths import REFUSED, state_of
from tests.tiers import full_but
from tests.weights_tools.files import assert_same, network
from weights_tools import convert

ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def source(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    path = tmp_path / "source.pth"
    torch.save(state, path)
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_existing_output_needs_force(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"out\.safetensors: exists already; .* \(--force\)"):
        convert(source, target)
    assert target.read_bytes() == b"precious"
    convert(source, target, overwrite=True)
    assert target.stat().st_size > 10_000_000


def test_output_must_be_called_safetensors(tmp_path: Path, source: Path) -> None:
    with pytest.raises(OutputError, match=r"the output's name must end in \.safetensors"):
        convert(source, tmp_path / "out.pth")
    assert _names(tmp_path) == ["source.pth"]


def test_paths_that_are_never_replaced(tmp_path: Path, source: Path) -> None:
    """The other such paths are in `tests.output_paths`."""
    target = tmp_path / "out.safetensors"
    REFUSED["hard link"][0](target)
    before = state_of(tmp_path)
    with pytest.raises(OutputError, match=REFUSED["hard link"][1]):
        convert(source, target, overwrite=True)
    assert state_of(tmp_path) == before


def test_a_tilde_is_a_plain_name(source: Path) -> None:
    with pytest.raises(OutputError, match="the folder ~ does not exist"):
        convert(source, "~/out.safetensors")


@pytest.mark.parametrize(
    "name",
    ["with space", "new\nline", "\N{OCTOPUS}", "-o", "a'b\"c;$(x)", os.fsdecode(b"\xff\xfe"), "x" * 243],
    ids=["space", "newline", "emoji", "dash", "shell", "not UTF-8", "255 characters"],
)
def test_odd_names(tmp_path: Path, source: Path, name: str) -> None:
    odd = tmp_path / f"{name}.pth"
    source.rename(odd)
    target = tmp_path / f"{name}.safetensors"
    convert(odd, target)
    assert _names(tmp_path) == sorted([odd.name, target.name])
    # The safetensors library, which load uses, opens no path that is not UTF-8.
    segnets.load(target.rename(tmp_path / "plain.safetensors"))


def test_relative_path_with_dots(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    convert("../source.pth", "../sub/../out.safetensors")
    assert (tmp_path / "out.safetensors").is_file()
    with pytest.raises(OutputError, match="exists already"):
        convert("../source.pth", "../out.safetensors")


@pytest.fixture
def public_folder(source: Path) -> Iterator[Path]:
    """Return a folder with a checkpoint that other users can read but not write to."""
    folder = Path(tempfile.mkdtemp())
    shutil.copy(source, folder / "source.pth")
    (folder / "source.pth").chmod(0o644)
    (folder / "out.safetensors").write_bytes(b"precious")
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_read_only_folder(public_folder: Path) -> None:
    if IS_ROOT:
        os.seteuid(65534)  # root may write everywhere
    try:
        for name in ("out.safetensors", "new.safetensors"):
            with pytest.raises(
                OutputError, match=f"{name}.*: permission denied; choose a folder that you may write to"
            ):
                convert(public_folder / "source.pth", public_folder / name, overwrite=True)
        if IS_ROOT:
            with pytest.raises(WeightsError, match=r"permission denied|can't be opened"):
                convert("/etc/shadow", public_folder / "x.safetensors")
    except OutputError as error:  # the folder of the temporary files itself may be closed to other users
        pytest.fail(str(error))
    finally:
        if IS_ROOT:
            os.seteuid(0)
    assert _names(public_folder) == ["out.safetensors", "source.pth"]
    assert (public_folder / "out.safetensors").read_bytes() == b"precious"


def test_limit_of_the_file_size(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OutputError, match="the file would exceed the size limit in force here"):
            convert(source, target, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == b"precious"
    assert _names(tmp_path) == ["out.safetensors", "source.pth"]


def _can_mount() -> bool:
    tried = (
        subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    )
    return IS_ROOT and tried is not None and tried.returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="needs the right to mount a small disk")
def test_full_disk(tmp_path: Path, source: Path) -> None:
    (tmp_path / "disk").mkdir()
    script = (
        "mount -t tmpfs -o size=4m tmpfs disk && echo precious > disk/out.safetensors && "
        '"$0" -m weights_tools convert source.pth disk/out.safetensors --force; echo "code $?"; ls -A disk; cat disk/*'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "code 1\nout.safetensors\nprecious\n"
    assert "the disk is full; free some space or choose another location" in done.stderr
    assert len(done.stderr.splitlines()) == 1


_SLOW = """
import signal, sys, time
from pathlib import Path
from weights_tools.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
def wait(*_): print("writing", flush=True); time.sleep(60)
Path.replace = wait  # everything is written, only the name is missing
sys.exit(main(["convert", "source.pth", "out.safetensors", "--force"]))
"""


@pytest.mark.parametrize(
    ("sent", "code", "left"),
    full_but(
        [(signal.SIGINT, 130, 0)],
        [(signal.SIGKILL, -9, 1), (signal.SIGTERM, 130, 0), (signal.SIGINT, 130, 0)],
    ),
)
def test_killed_while_writing(tmp_path: Path, source: Path, sent: signal.Signals, code: int, left: int) -> None:
    (tmp_path / "out.safetensors").write_bytes(b"precious")
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(sent)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in complaint
    assert (tmp_path / "out.safetensors").read_bytes() == b"precious"
    others = [name for name in _names(tmp_path) if name not in ("out.safetensors", "source.pth")]
    assert len(others) == left
    assert all(name.startswith(".segnets-") and name.endswith(".tmp") for name in others)
    convert(source, tmp_path / "out.safetensors", overwrite=True)


@pytest.mark.parametrize("force", [False, True])
def test_two_writers(tmp_path: Path, source: Path, state: dict[str, Tensor], force: bool) -> None:
    other = network(num_classes=3)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    target = tmp_path / "out.safetensors"
    outcomes: list[str] = []

    def work(path: Path) -> None:
        try:
            outcomes.append(convert(path, target, overwrite=force).output)
        except OutputError as error:
            outcomes.append(f"refused: {error}")

    threads = [threading.Thread(target=work, args=(path,)) for path in (source, tmp_path / "other.pth")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [outcome for outcome in outcomes if outcome.startswith("refused")]
    assert len(refused) == (0 if force else 1)
    model: Any = segnets.load(target)
    assert_same(
        dict(model.state_dict()), state if model.config.options["num_classes"] == 21 else dict(other.state_dict())
    )
    assert _names(tmp_path) == ["other.pth", "out.safetensors", "source.pth"]
