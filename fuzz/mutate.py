"""Changes to a file: of its structure first (entries, opcodes, JSON), which stays consistent, then of its bytes.

An edit is a name and a number; the number seeds every choice within it, so that the same edits of the same seed give
the same bytes, and a failing case gets shorter by leaving edits out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

from fuzz import edit_bytes, edit_json, edit_pickle, edit_zip
from fuzz.document import Document, take_apart
from fuzz.seeds import Seed

MOST_BYTES = 2 << 20
Edit: TypeAlias = tuple[str, int]
Pool: TypeAlias = Sequence[bytes]

_STRUCTURE: dict[str, dict[str, Callable[[Document, random.Random, Pool], None]]] = {
    "zip": {**edit_zip.EDITS, **edit_pickle.EDITS},
    "pickles": edit_pickle.EDITS,
    "safetensors": edit_json.EDITS,
    "json": edit_json.FILE_EDITS,
    "raw": {},
}
STRUCTURE_EDITS = sorted({name for edits in _STRUCTURE.values() for name in edits})
BYTE_EDITS = sorted(edit_bytes.EDITS)


def apply(data: bytes, edits: Sequence[Edit], pool: Pool) -> bytes:
    """The bytes after the edits; those of the structure come first, those that do not suit the file do nothing."""
    document = take_apart(data)
    suited = _STRUCTURE[document.kind]
    for name, number in edits:
        if name in suited:
            suited[name](document, random.Random(number), pool)
            if document.size() > 64 * MOST_BYTES:  # a change of a change of a change
                break
    data = document.to_bytes()
    for name, number in edits:
        if name in edit_bytes.EDITS:
            data = edit_bytes.EDITS[name](data, random.Random(number), pool)
    return data[:MOST_BYTES]


def draw(data: bytes, rng: random.Random) -> list[Edit]:
    """Choose edits that suit the file: mostly one to four of its structure, sometimes of its bytes."""
    # Opcodes more often: most of the code is behind them.
    suited = [*_STRUCTURE[take_apart(data).kind]]
    suited += [name for name in suited if name == "pickle opcodes"] * 3
    edits: list[Edit] = []
    count = min(8, int(rng.expovariate(0.6)) + 1)
    for _ in range(count):
        names = suited if suited and rng.random() < 0.9 else BYTE_EDITS
        edits.append((rng.choice(names), rng.getrandbits(32)))
    return edits


def choose(seeds: Sequence[Seed], rng: random.Random) -> Seed:
    """One of the seeds, each as often as its weight says."""
    return rng.choices(seeds, [seed.weight for seed in seeds])[0]
