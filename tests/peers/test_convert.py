"""Convert every layout and every network in its table from the real project.

Each option that no tensor shows matters there.

The conversions are in `test_convert_<layout>.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from segnets.builders import PUBLISHED
from tests.peers.conversions import LIMIT, Conversion, converted, under_other_options
from tests.peers.layouts import CONVERSIONS, smallest
from weights_tools.recognise.layouts import LAYOUTS
from weights_tools.recognise.layouts.table_layout import TableLayout


def test_every_network_of_every_layout_is_converted() -> None:
    known = {
        (name, origin.signature)
        for name, each in LAYOUTS.items()
        if isinstance(each, TableLayout)
        for origin in each.networks
    }
    done = {(each.layout, each.origin.signature) for each in CONVERSIONS if each.origin is not None}
    assert known == done
    assert {each.layout for each in CONVERSIONS} == set(LAYOUTS)


def test_every_segmentation_network_of_torchvision_is_converted() -> None:
    assert {builder.name for builder in PUBLISHED} <= {
        each.model for each in CONVERSIONS if each.layout == "torchvision"
    }


def test_no_conversion_is_there_twice() -> None:
    assert len({str(each) for each in CONVERSIONS}) == len(CONVERSIONS)


@pytest.mark.parametrize("conversion", smallest(), ids=str)
def test_each_option_that_no_tensor_shows_matters(conversion: Conversion, tmp_path: Path) -> None:
    """The same tensors under another value give results that are outside of the limit, ten times at least."""
    others = list(under_other_options(converted(conversion, tmp_path)))
    assert others
    assert [str(other) for other in others if other.difference <= 10 * LIMIT] == []
