"""The record of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from segnets.card import JSON
from segnets.errors import OutputError
from segnets.inference.journal import FOLDER, Entry, Journal, stamp_of

RUN: dict[str, JSON] = {"models": ["0123"], "save": ["mask"]}
ENTRIES = [Entry(f"{n}.jpg", str(n), (1, n), outputs={f"{n}.png": 3}, tables={"csv": [n]}) for n in range(3)]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path, RUN)
    journal.start()
    for entry in ENTRIES:
        journal.append(entry)
    journal.close()
    return journal


def test_entries_come_back(journal: Journal) -> None:
    found = journal.entries()
    assert list(found.values()) == [replace(entry, tables={}) for entry in ENTRIES]
    keys = [entry.key for entry in reversed(ENTRIES)]
    assert list(journal.ordered(keys)) == ENTRIES[::-1]


def test_a_line_that_was_cut_off_is_dropped_and_overwritten(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / FOLDER / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    assert [entry.source for entry in journal.entries().values()] == ["0.jpg", "1.jpg"]
    journal.start()
    journal.append(ENTRIES[2])
    journal.close()
    assert list(journal.ordered(entry.key for entry in ENTRIES)) == ENTRIES


def test_the_last_entry_of_an_image_counts(journal: Journal) -> None:
    journal.start()
    journal.append(replace(ENTRIES[0], state="failed", reason="gone"))
    journal.finish(entry.key for entry in ENTRIES)
    journal.close()
    assert [entry.state for entry in journal.entries().values()] == ["failed", "done", "done"]


def test_another_run_is_told_apart(journal: Journal, tmp_path: Path) -> None:
    assert journal.differences() == []
    other = Journal(tmp_path, {**RUN, "models": ["4567"]})
    assert other.differences() == ['models was ["0123"] and is ["4567"]']


def test_a_second_process_is_refused(journal: Journal, tmp_path: Path) -> None:
    journal.start()
    with pytest.raises(OutputError, match="another process"):
        Journal(tmp_path, RUN).start()
    journal.close()
    other = Journal(tmp_path, RUN)
    other.start()
    other.close()


def test_completeness_needs_every_output_in_its_size(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"abc")
    assert ENTRIES[0].is_complete(tmp_path)
    assert not ENTRIES[1].is_complete(tmp_path)
    assert not replace(ENTRIES[0], state="failed").is_complete(tmp_path)
    (tmp_path / "0.png").write_bytes(b"ab")
    assert not ENTRIES[0].is_complete(tmp_path)


def test_a_stamp_shows_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    assert stamp_of(path) is None
    path.write_bytes(b"a")
    before = stamp_of(path)
    path.write_bytes(b"ab")
    assert before != stamp_of(path)
