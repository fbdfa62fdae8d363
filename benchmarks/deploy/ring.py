"""Measure segnets.FrameRing, which moves frames from one process to another, against a plain memcpy.

    python -m benchmarks.deploy.ring

All candidates take turns to move the same frames of 1080x1920x3 bytes. The result is the median ratio to the memcpy of
the same round. The ring's producer copies each frame into its slot, as any source must that can't write there itself.
The rest of the ratio is the cost of the ring. The pipe shows the cost of the usual alternative.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.measure import machine
from segnets import FrameRing

SHAPE, SLOTS = (1080, 1920, 3), 4

Bytes = npt.NDArray[np.uint8]


def source() -> Bytes:
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


def memcpy(frames: int) -> float:
    """Return the seconds per frame."""
    targets = [np.zeros(SHAPE, np.uint8) for _ in range(SLOTS)]
    frame = source()
    start = time.perf_counter()
    for i in range(frames):
        np.copyto(targets[i % SLOTS], frame)
    return (time.perf_counter() - start) / frames


def produce(path: str, frames: int) -> None:
    frame = source()
    with FrameRing.open(path, "producer") as ring:
        for _ in range(frames):
            ring.put(frame)


def ring(frames: int, checksum: bool, folder: Path) -> float:
    path = folder / f"segnets-bench-{time.monotonic_ns()}"
    with FrameRing.create(path, SHAPE, role="consumer", slots=SLOTS, checksum=checksum) as consumer:
        process = multiprocessing.get_context("spawn").Process(target=produce, args=(str(path), frames + 1))
        process.start()
        received = iter(consumer)
        next(received)  # the process has started
        start = time.perf_counter()
        for frame in received:
            _ = frame.array[0, 0, 0]
        seconds = (time.perf_counter() - start) / frames
        process.join()
    path.unlink()
    return seconds


def send(connection: Connection, frames: int) -> None:
    frame = source()
    for _ in range(frames):
        connection.send_bytes(frame.reshape(-1).data)


def pipe(frames: int) -> float:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=send, args=(sender, frames + 1), daemon=True)
    process.start()
    target = np.zeros(SHAPE, np.uint8)
    receiver.recv_bytes_into(target.reshape(-1).data)
    start = time.perf_counter()
    for _ in range(frames):
        receiver.recv_bytes_into(target.reshape(-1).data)
    seconds = (time.perf_counter() - start) / frames
    process.join()
    return seconds


def produce_slowly(path: str, frames: int, gap: float) -> None:
    with FrameRing.open(path, "producer") as ring:
        for _ in range(frames):
            time.sleep(gap)
            slot = ring.acquire()
            assert slot is not None
            slot.publish()


def latency(frames: int, gap: float, folder: Path) -> list[float]:
    """Return the sorted seconds from publishing a frame to receiving it, with `gap` seconds between frames."""
    path = folder / f"segnets-bench-{time.monotonic_ns()}"
    found = []
    with FrameRing.create(path, (64,), role="consumer") as consumer:
        process = multiprocessing.get_context("spawn").Process(target=produce_slowly, args=(str(path), frames, gap))
        process.start()
        for frame in consumer:
            found.append((time.monotonic_ns() - frame.timestamp) / 1e9)
        process.join()
    path.unlink()
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=200)
    arguments = parser.parse_args()
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    frames: int = arguments.frames
    candidates: dict[str, Callable[[], float]] = {
        "memcpy in one process": lambda: memcpy(frames),
        "FrameRing": lambda: ring(frames, False, folder),
        "FrameRing, checksum": lambda: ring(frames, True, folder),
        "multiprocessing.Pipe": lambda: pipe(frames),
    }
    results: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(arguments.rounds):
        for name, measure in candidates.items():
            results[name].append(measure())
    base = results["memcpy in one process"]
    print(machine())
    for name, seconds in results.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        print(f"{name:24} {statistics.median(seconds) * 1e3:7.3f} ms per frame of 6.2 MB, {ratio:5.2f} memcpy")
    for gap in (1e-4, 1e-3, 1e-2, 1e-1):
        found = latency(max(50, min(2000, int(3 / gap))), gap, folder)
        median, late = statistics.median(found), found[int(0.99 * len(found))]
        print(
            f"a frame each {gap * 1e3:g} ms is seen {median * 1e3:.3f} ms after it was published (median; "
            f"99 %: {late * 1e3:.3f}), {median / statistics.median(base):.2f} memcpy of a frame"
        )


if __name__ == "__main__":
    main()
