"""Check that the entries of `docs/bad_inputs.md` are numbered and that the tests they name exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bad_inputs.md").read_text()
ENTRIES = re.findall(r"^(\d+)\. (.*(?:\n +\S.*)*)", PAGE, flags=re.MULTILINE)
COUNT = 88


def test_entries_are_numbered_without_gaps() -> None:
    assert [int(number) for number, _ in ENTRIES] == list(range(1, COUNT + 1))


@functools.cache
def _functions_of(file: str) -> set[str]:
    """Return the names of the functions of a file."""
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("number", "entry"), ENTRIES, ids=[number for number, _ in ENTRIES])
def test_every_entry_names_tests_that_exist(number: str, entry: str) -> None:
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", entry)
    assert named
    assert entry.count("`tests/") == len(named), "each test is named in the form `tests/file.py::test_name`"
    for file, test in named:
        assert test.startswith("test_")
        assert test in _functions_of(file), f"{file}::{test}"


def test_no_line_is_too_long() -> None:
    assert max(map(len, PAGE.splitlines())) <= 120
