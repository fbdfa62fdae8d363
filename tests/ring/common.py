"""Peers of a ring in separate processes, and the frames with which they check each other.

Frames are int64. Every item is the sequence, and the tag is three times the sequence. `python -m tests.ring.common`
imports segnets once and forks a process for each line of its input, so that a peer starts in a millisecond.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from segnets import FrameRing, PeerGoneError
from segnets.frame_ring import Frame, Slot

PASSES = 20


def acquire_now(ring: FrameRing) -> Slot:
    """Return a free slot, which must be available."""
    slot = ring.acquire(0)
    assert slot is not None
    return slot


def next_now(ring: FrameRing) -> Frame:
    """Return the next frame, which must be available."""
    frame = ring.next(0)
    assert frame is not None
    return frame


def check(frame: Frame) -> None:
    """Assert that the frame is complete."""
    assert (frame.array == frame.sequence).all(), f"frame {frame.sequence} is torn"
    assert frame.tag == 3 * frame.sequence
    assert frame.timestamp <= time.monotonic_ns()


def write(path: str, count: int) -> None:
    """Write frames up to sequence `count`; 0 means without end."""
    with FrameRing.open(path, "producer") as ring:
        while True:
            slot = ring.acquire()
            assert slot is not None
            with slot:
                slot.tag = 3 * slot.sequence
                # Write other values first, so that filling takes most of the time and a kill meets a half-filled slot.
                for wrong in range(PASSES, 0, -1):
                    slot.array[...] = slot.sequence + wrong
                slot.array[...] = slot.sequence
            if slot.sequence == count:
                return


def read(path: str, count: int) -> None:
    """Read and check frames up to sequence `count`; 0 means without end."""
    last = 0
    with FrameRing.open(path) as ring:
        for frame in ring:
            check(frame)
            assert last in (0, frame.sequence - 1), f"frame {frame.sequence} follows {last}"
            last = frame.sequence
            if last == count:
                return


class PeerStarter:
    """Runner of `write` and `read` in separate processes. Fails at the end if one of them failed."""

    def __enter__(self) -> PeerStarter:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ring.common"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def start(self, what: str, path: Path, count: int = 0) -> int:
        """Start "write" or "read", and return its process id."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what} {count} {path}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        stderr = self.process.communicate(timeout=60)[1]
        assert error_type is not None or not stderr, stderr


def kill(process: int) -> None:
    """Send SIGKILL and wait until the process is gone, without being its parent."""
    os.kill(process, signal.SIGKILL)
    while Path(f"/proc/{process}").exists():
        time.sleep(0.0002)


def _main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps our children
    for line in sys.stdin:
        what, count, path = line.rstrip("\n").split(" ", 2)
        process = os.fork()
        if process == 0:
            try:
                {"write": write, "read": read}[what](path, int(count))
            except PeerGoneError:
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(process, flush=True)


if __name__ == "__main__":
    _main()
