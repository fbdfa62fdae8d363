"""Atomic writing: no data is lost or incomplete, and no link or device is replaced."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from segnets.errors import OutputError
from segnets.files import TEMPORARY_PREFIX, atomic_write
from tests.output_paths import INVALID_NAMES, REFUSED, UNUSUAL_NAMES, state_of


def write(path: Path, content: bytes = b"new", *, overwrite: bool = True) -> None:
    with atomic_write(path, overwrite=overwrite) as file:
        file.write(content)


def test_a_new_file_and_a_replaced_one(tmp_path: Path) -> None:
    write(tmp_path / "a", b"one")
    write(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_a_failure_keeps_the_old_file_and_no_temporary_file(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def fail() -> None:
        with atomic_write(tmp_path / "a") as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_existing_file_is_kept_without_overwrite(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"exists already; .*--force"):
        write(tmp_path / "a", overwrite=False)
    assert (tmp_path / "a").read_bytes() == b"old"
    write(tmp_path / "b", overwrite=False)
    assert (tmp_path / "b").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_another_process_creates_the_file_meanwhile(tmp_path: Path) -> None:
    def race() -> None:
        with atomic_write(tmp_path / "a", overwrite=False) as file:
            file.write(b"mine")
            (tmp_path / "a").write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exists already"):
        race()
    assert (tmp_path / "a").read_bytes() == b"theirs"


@pytest.mark.parametrize("case", REFUSED)
def test_only_regular_files_are_replaced(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    make(tmp_path / "t")
    before = state_of(tmp_path)
    with pytest.raises(OutputError, match=message):
        write(tmp_path / "t")
    assert state_of(tmp_path) == before


@pytest.mark.parametrize("name", INVALID_NAMES)
def test_invalid_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=INVALID_NAMES[name]):
        write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_unusual_names(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    write(Path(path))
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\xfe"]  # noqa: PTH208


def test_file_and_folder_are_flushed_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut the target is the old file or the complete new one only if both are flushed, in turn."""
    flushed: list[tuple[str, bool]] = []  # what was flushed, and whether the target was the new file by then

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        is_folder = os.path.samestat(status, tmp_path.stat())
        assert is_folder or status.st_size == len(b"new"), "flushed before everything was written"
        flushed.append(("folder" if is_folder else "file", (tmp_path / "a").read_bytes() == b"new"))

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "a").write_bytes(b"old")
    write(tmp_path / "a")
    assert flushed == [("file", False), ("folder", True)]
    flushed.clear()
    write(tmp_path / "b", overwrite=False)
    assert [what for what, _ in flushed] == ["file", "folder"]


def test_two_writers_to_one_target(tmp_path: Path) -> None:
    contents = [bytes([i]) * 200_000 for i in range(8)]
    threads = [threading.Thread(target=write, args=(tmp_path / "a", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


SLOW_WRITER = """
import sys, time
from segnets.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def run_writer(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_a_kill_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with run_writer(tmp_path / "a") as process:
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "a").read_bytes() == b"old"
    left = [path.name for path in tmp_path.iterdir() if path.name != "a"]
    assert len(left) == 1
    assert left[0].startswith(TEMPORARY_PREFIX), "a hidden file with a known prefix"


FULL = """
import sys, resource
from segnets.errors import OutputError
from segnets.files import atomic_write
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with atomic_write(sys.argv[1]) as file:
        for _ in range(64):
            file.write(bytes(1 << 16))
except OutputError as error:
    print(error)
"""


def test_a_file_above_the_size_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    out = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a"), "limit"], capture_output=True, text=True)
    assert "the file would exceed the size limit in force here" in out.stdout, out.stderr
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def in_a_small_file_system(script: str) -> list[str]:
    """Return a shell command that runs `script` with a file system of 1 MiB mounted at $1, in a mount namespace."""
    return [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=1m none "$1" && {script}',
        "sh",
    ]


def test_a_full_disk(tmp_path: Path) -> None:
    script = 'echo -n old > "$1/a" && "$2" -c "$3" "$1/a" disk && ls -A "$1" && cat "$1/a"'
    command = [*in_a_small_file_system(script), str(tmp_path), sys.executable, FULL]
    probe = subprocess.run([*in_a_small_file_system("true"), str(tmp_path)], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("this system does not allow mounting a small file system; the size limit above was tested")
    out = subprocess.run(command, capture_output=True, text=True)
    lines = out.stdout.splitlines()
    assert "the disk is full; free some space" in lines[0], out.stderr
    assert lines[1:] == ["a", "old"]
