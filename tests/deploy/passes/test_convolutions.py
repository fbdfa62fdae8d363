"""Convolutions split into pieces of their output channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segnets.deploy.passes.context import Context
from segnets.deploy.passes.convolutions import Form, Pieces, form_of, pieces_of


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("outputs", "count"), [(300, 3), (256, 2), (128, 1)])
def test_pieces_compute_the_same(outputs: int, count: int, bias: bool) -> None:
    torch.manual_seed(0)
    whole = nn.Conv2d(1024, outputs, 3, stride=2, padding=1, bias=bias)
    parts = pieces_of(whole)
    assert len(parts) == count
    form = form_of(whole, [1, 1024, 65, 65], Context("torchscript", "cpu"))
    assert form is (Form.PIECES if count > 1 else Form.PLAIN)
    x = torch.randn(2, 1024, 7, 6)
    with torch.no_grad():
        torch.testing.assert_close(Pieces(parts)(x), whole(x), rtol=1e-4, atol=1e-4)


def test_other_convolutions_are_not_split() -> None:
    for convolution in (
        nn.Conv2d(512, 512, 3),
        nn.Conv2d(2048, 512, 1),
        nn.Conv2d(1024, 1024, 3, groups=32),
        nn.Conv2d(2048, 256, 3, dilation=12, padding=12),
    ):
        size = [1, convolution.in_channels, 65, 65]
        assert form_of(convolution, size, Context("torchscript", "cpu", winograd=False)) is Form.PLAIN
