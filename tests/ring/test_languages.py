"""A ring with Python on one side and C++ on the other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from segnets import FrameRing
from segnets.frame_ring._layout import PRODUCER_STATE
from tests import cmake
from tests.ring.common import PeerStarter, check

FRAMES = 3000  # many times around the ring, so that each side meets an empty and a full ring


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("writer", ["python", "c++"])
def test_frames_from_one_language_to_the_other(
    writer: str, checksum: bool, program: Path, peers: PeerStarter, tmp_path: Path
) -> None:
    path = tmp_path / "r"
    FrameRing.create(path, (64, 16), "int64", slots=3, checksum=checksum).close()
    with path.open("r+b") as file:  # as if no producer had opened the ring, so that each side waits for the other
        os.pwrite(file.fileno(), bytes(8), PRODUCER_STATE)
    if writer == "python":
        peers.start("write", path, FRAMES)
        done = run(program, "read", path, 0)
        assert (done.stdout, done.stderr) == (f"closed after {FRAMES}\n", "")
    else:
        with FrameRing.open(path) as ring, subprocess.Popen([program, "write", path, str(FRAMES)]) as other:
            last = 0
            for frame in ring:
                check(frame)
                assert frame.sequence == last + 1
                last = frame.sequence
            assert last == FRAMES
            assert other.wait() == 0


@pytest.mark.full
def test_cpp_without_libtorch(tmp_path: Path) -> None:
    definitions = ("-DSEGNETS_BUILD_TESTS=ON", "-DSEGNETS_WITH_TORCH=OFF")
    folder, output = cmake.build(cmake.ROOT / "cpp", "ring", *definitions)
    assert "warning:" not in output, output
    with FrameRing.create(tmp_path / "r", (1000,), "int64") as ring:
        ring.put(np.ones(1000, np.int64), tag=3)
    assert run(folder / "segnets-test-ring", "read", tmp_path / "r", 0).stdout == "closed after 1\n"


def test_the_order_of_stores_in_cpp(program: Path, tmp_path: Path) -> None:
    """Transfer frames so small and fast that readers often run between two stores of the writer."""
    assert run(program, "race", tmp_path / "r", 300_000).stdout == "0 wrong\n"


def test_cpp_refuses_a_taken_role_and_reports_the_peer(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "r"
    with FrameRing.create(path, (1000,), "int64") as ring:
        done = run(program, "open", path, "producer")
        assert done.returncode == 1
        assert done.stderr == (
            f"{path}: already has a producer, and a ring has only one; close that one or choose another ring\n"
        )
        assert "peer 1, waiting 0" in run(program, "open", path, "consumer").stdout  # alive
        assert ring.peer == "closed"
        ring.put(np.ones(1000, np.int64), tag=3)
        assert run(program, "read", path, 1).stdout == "read up to 1\n"
    with pytest.raises(ZeroDivisionError), FrameRing.open(path, "producer"):
        _ = 1 // 0
    assert run(program, "read", path, 0).stdout == "died after 0\n"


def test_cpp_finds_damage(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "r"
    with FrameRing.create(path, (1000,), "int64", checksum=True) as ring:
        for i in range(1, 4):
            ring.put(np.full(1000, i, np.int64), tag=3 * i)
    contents = bytearray(path.read_bytes())
    contents[4096 + 64 + 7999] ^= 1
    contents[4096 + 8064] ^= 1
    path.write_bytes(contents)
    for message in ("frame 1 is damaged (wrong checksum)", "frame 2 is damaged (its slot has sequence 3)"):
        done = run(program, "read", path, 0)
        assert done.returncode == 1
        assert done.stderr == f"{path}: {message}: another process is writing to the ring; the frame was skipped\n"
        # The program ended by an exception, so it did not close the ring.
        with FrameRing.open(path, "producer") as ring:
            assert ring.peer == "died"
    assert run(program, "read", path, 0).stdout == "closed after 3\n"


def test_cpp_detects_a_torn_frame(program: Path, tmp_path: Path) -> None:
    """Check the check on which the tests with kills rely."""
    path = tmp_path / "r"
    with FrameRing.create(path, (1000,), "int64") as ring:
        torn = np.ones(1000, np.int64)
        torn[999] = 0
        ring.put(torn, tag=3)
    assert run(program, "read", path, 0).stderr == "frame 1 is torn\n"


def test_cpp_fails_cleanly_at_a_file_size_limit(program: Path, tmp_path: Path) -> None:
    """Check that SIGXFSZ does not end the process, which would leave its temporary file."""
    command = f'ulimit -f 10; exec "{program}" create "{tmp_path / "r"}" producer 1 4 0 300x400'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "bytes: File too large" in done.stderr
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())


def test_cpp_does_not_replace_a_file(program: Path, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"mine")
    done = run(program, "create", tmp_path / "r", "producer", 1, 4, 0, "3x4")
    assert done.stderr == f"{tmp_path / 'r'}: exists already; remove it, call open(), or pass reuse = true\n"
    done = run(program, "create", tmp_path / "none" / "r", "producer", 1, 4, 0, "3x4")
    assert "the folder" in done.stderr
    assert "does not exist; create it first" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    assert (tmp_path / "r").read_bytes() == b"mine"
