"""Conversions from mmsegmentation: all compared whole networks, as saved by mmengine and by 0.x."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers import saving, test_mmseg
from tests.peers.compare import Case, needs
from tests.peers.conversions import Conversion, check, of_case, state_dict
from weights_tools.recognise.layouts.network_table import NetworkTable
from weights_tools.recognise.layouts.tables import MMSEG

pytestmark = needs("mmsegmentation")
FCN, DEEPLABV3, PSPNET, FCN_ONE = MMSEG
SAVED = ((saving.mmengine, "mmengine's save_checkpoint"), (saving.mmcv, "0.x"), (state_dict, "state dict"))


def origin(case: Case) -> NetworkTable:
    if "num_convs=1" in case.network:
        return FCN_ONE
    return next(
        own for kind, own in (("FCN", FCN), ("ASPP", DEEPLABV3), ("PSP", PSPNET)) if f"{kind}Head" in case.network
    )


WHOLE = [case for case in test_mmseg.CASES if not case.layers]
CONVERSIONS: list[Conversion] = [
    of_case(case, "mmseg", MMSEG, origin(case), *SAVED[number % 3]) for number, case in enumerate(WHOLE)
]


@pytest.mark.parametrize("conversion", CONVERSIONS, ids=str)
def test_the_converted_network_computes_the_same(conversion: Conversion, tmp_path: Path) -> None:
    check(conversion, tmp_path)
