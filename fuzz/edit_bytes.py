"""Changes that know nothing of a format: bits, bytes, numbers, pieces."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

EDGES: tuple[int, ...] = (
    0, 1, -1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 32) - 1,
    1 << 32, 1 << 48, (1 << 48) + 1, (1 << 63) - 1, 1 << 63, -(1 << 63), (1 << 64) - 1,
)  # fmt: skip

Edit = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def flip(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """One bit."""
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def put(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """A few bytes over others."""
    at = rng.randrange(len(data) + 1)
    new = rng.randbytes(rng.randint(1, 4))
    return data[:at] + new + data[at + len(new) :]


def number(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """A number at the edge of what a field holds."""
    width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data) + 1)
    value = rng.choice(EDGES) & ((1 << 8 * width) - 1)
    return data[:at] + value.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def cut(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """A piece is missing."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + _length(rng) :]


def truncate(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data) + 1)]


def insert(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """Random bytes between."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(min(64, _length(rng))) + data[at:]


def copy(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """A piece a second time, elsewhere."""
    at, to = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    return data[:to] + data[at : at + _length(rng)] + data[to:]


def repeat(data: bytes, rng: random.Random, _pool: Sequence[bytes]) -> bytes:
    """A piece many times."""
    at = rng.randrange(len(data) + 1)
    piece = data[at : at + min(32, _length(rng))]
    return data[:at] + piece * times(rng, len(piece)) + data[at:]


def splice(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """The beginning of this file and the end of another, or a piece of it in between."""
    other = rng.choice(pool)
    at, there = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    if rng.random() < 0.5:
        return data[:at] + other[there:]
    return data[:at] + other[there : there + _length(rng)] + data[at:]


def times(rng: random.Random, size: int) -> int:
    """How often something of `size` bytes is repeated: mostly a few times, seldom very often."""
    often = rng.random() < 0.003
    count = 1 << 17 if often else rng.choice((2, 2, 3, 10, 100, 1000))
    return min(count, (1 << 18 if often else 1 << 12) // max(size, 1))


def _length(rng: random.Random) -> int:
    return int(rng.expovariate(0.05)) + 1


EDITS: dict[str, Edit] = {f.__name__: f for f in (flip, put, number, cut, truncate, insert, copy, repeat, splice)}


def change(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Any one of these changes."""
    return EDITS[rng.choice(sorted(EDITS))](data, rng, pool)
