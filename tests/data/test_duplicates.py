"""Pictures that look alike are found in a time that grows with their number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from segnets.data import duplicates
from segnets.data.dataset import Sample
from segnets.data.duplicates import find_duplicates
from segnets.data.facts import SampleFacts


def _facts(count: int, *, copies: int, seed: int = 0) -> list[SampleFacts]:
    """Return facts of pictures, of which some are noisy copies of earlier ones; the name says of which."""
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    pictures = (pictures // 8 + random.integers(0, 200, (count, 1, 1, 1))).astype(np.uint8)
    names = [str(number) for number in range(count)]
    for number in range(count - copies, count):
        source = number - copies
        noise = random.integers(-1, 2, pictures[source].shape) * (random.random(pictures[source].shape) < 0.5)
        pictures[number] = np.clip(pictures[source].astype(int) + noise, 0, 255)
        names[number] = f"{number} of {source}"
    return [
        SampleFacts("train", Sample(name, Path(f"{name}.png"), None), digest=name.encode(), thumbnail=picture)
        for name, picture in zip(names, pictures, strict=True)
    ]


def test_noisy_copies_are_found() -> None:
    facts = _facts(300, copies=40)
    found = [(problem.path.name, problem.what) for problem in find_duplicates({"train": facts})]
    expected = [
        (
            f"{number} of {number - 40}.png",
            f"is nearly the same picture as {number - 40}.png (resized or compressed again)",
        )
        for number in range(260, 300)
    ]
    assert found == expected


def test_each_is_compared_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are of the same brightness."""
    monkeypatch.setattr(duplicates, "_MOST_COMPARED", 5)
    compared: list[int] = []

    def alike(_one: object, others: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        compared.append(len(others))
        return np.zeros(len(others), dtype=np.bool_)

    monkeypatch.setattr(duplicates, "_alike", alike)
    (one,) = _facts(1, copies=0)
    same = [SampleFacts("train", one.sample, digest=bytes([n]), thumbnail=one.thumbnail) for n in range(50)]
    assert list(find_duplicates({"train": same})) == []
    assert max(compared) == 5
    assert len(compared) == 49
