"""Peers of a ring in processes of their own, and the frames by which they check each other.

Frames are int64; every item is the sequence, and the tag three times that. `python -m tests.ring.common` imports
segnets once and then forks a process for each line of its input, so that a peer starts in a millisecond.
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


def acquired(ring: FrameRing) -> Slot:
    """A slot to fill, of which there is one."""
    slot = ring.acquire(0)
    assert slot is not None
    return slot


def given(ring: FrameRing) -> Frame:
    """The next frame, of which there is one."""
    frame = ring.next(0)
    assert frame is not None
    return frame


def check(frame: Frame) -> None:
    """Asserts that the frame is whole."""
    assert (frame.array == frame.sequence).all(), f"frame {frame.sequence} is torn"
    assert frame.tag == 3 * frame.sequence
    assert frame.timestamp <= time.monotonic_ns()


def write(path: str, count: int) -> None:
    """Frames up to sequence `count`; 0 means without end, as for `read`."""
    with FrameRing.open(path, "producer") as ring:
        while True:
            slot = ring.acquire()
            assert slot is not None
            with slot:
                slot.tag = 3 * slot.sequence
                # Other values first, so that filling takes most of the time: a kill shall meet a slot half filled.
                for wrong in range(PASSES, 0, -1):
                    slot.array[...] = slot.sequence + wrong
                slot.array[...] = slot.sequence
            if slot.sequence == count:
                return


def read(path: str, count: int) -> None:
    last = 0
    with FrameRing.open(path) as ring:
        for frame in ring:
            check(frame)
            assert last in (0, frame.sequence - 1), f"frame {frame.sequence} follows {last}"
            last = frame.sequence
            if last == count:
                return


class Nursery:
    """Starts `write` and `read` in processes; complains at the end if one of them failed."""

    def __enter__(self) -> Nursery:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ring.common"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def start(self, what: str, path: Path, count: int = 0) -> int:
        """The process id of a peer; what: "write" or "read"."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what} {count} {path}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        said = self.process.communicate(timeout=60)[1]
        assert kind is not None or not said, said


def kill(process: int) -> None:
    """SIGKILL, and wait for the end of a process that somebody else collects."""
    os.kill(process, signal.SIGKILL)
    while Path(f"/proc/{process}").exists():
        time.sleep(0.0002)


def _main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system collects our children
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
