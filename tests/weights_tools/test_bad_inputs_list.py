"""Check that the entries of `docs/bad_inputs.md` are numbered and that the tests they name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bad_inputs.md").read_text()
ENTRIES = re.findall(r"^(\d+)\. (.*(?:\n +\S.*)*)", PAGE, flags=re.MULTILINE)
COUNT = 88


def test_entries_are_numbered_without_gaps() -> None:
    assert [int(number) for number, _ in ENTRIES] == list(range(1, COUNT + 1))


@pytest.mark.parametrize(("number", "entry"), ENTRIES, ids=[number for number, _ in ENTRIES])
def test_every_entry_names_tests_that_exist(number: str, entry: str) -> None:
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", entry)
    assert named
    assert entry.count("`tests/") == len(named), "each test is named in the form `tests/file.py::test_name`"
    for file, test in named:
        assert test.startswith("test_")
        tree = ast.parse((ROOT / file).read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"


def test_no_line_is_too_long() -> None:
    assert max(map(len, PAGE.splitlines())) <= 120
