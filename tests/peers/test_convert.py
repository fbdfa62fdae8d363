"""Every network of every layout is converted, and each option that its weights do not show matters.

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


def test_no_conversion_is_listed_twice() -> None:
    assert len({str(each) for each in CONVERSIONS}) == len(CONVERSIONS)


@pytest.mark.parametrize("conversion", smallest(), ids=str)
def test_each_hidden_option_matters(conversion: Conversion, tmp_path: Path) -> None:
    """With another value, the same tensors give outputs that differ by at least ten times the limit."""
    others = list(under_other_options(converted(conversion, tmp_path)))
    assert others
    assert [str(other) for other in others if other.difference <= 10 * LIMIT] == []
