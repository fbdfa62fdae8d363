"""docs/layouts.md lists every supported network and every look-alike."""

from __future__ import annotations

import re

import pytest
import torch

from tests.peers.compare import LIMITS
from tests.peers.layouts import HEAD, LIMITS_OF_THIS, LOOK_ALIKES_HEAD, PAGE, Row, look_alike_rows, rows
from weights_tools.recognise.layouts import LAYOUTS

PAGE_LINES = PAGE.read_text().splitlines() if PAGE.exists() else []
STALE = "docs/layouts.md is stale: make layouts"


@pytest.mark.parametrize(
    "row", list(rows()), ids=lambda row: f"{row.layout}-{row.name}-{row.origin and row.origin.signature}"
)
def test_every_network_has_its_row(row: Row) -> None:
    found = [line for line in PAGE_LINES if line.startswith(row.static)]
    assert found, STALE
    count, difference = re.findall(r"[^|]+", found[0].removeprefix(row.static))[:2]
    assert int(count) == len(row.conversions), STALE
    assert float(difference) <= LIMITS[torch.float32]


def test_every_layout_and_look_alike_is_listed() -> None:
    assert [f"## {name}" for name in LAYOUTS if f"## {name}" not in PAGE_LINES] == [], STALE
    assert [line for line in look_alike_rows() if line not in PAGE_LINES] == [], STALE


@pytest.mark.parametrize("text", [HEAD, LOOK_ALIKES_HEAD, LIMITS_OF_THIS], ids=["head", "look-alikes", "limits"])
def test_its_text_is_current(text: str) -> None:
    assert text.strip() in PAGE.read_text(), STALE
