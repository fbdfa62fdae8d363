"""Gates in place and LR-ASPP's classification before resizing, compared with the plain layers."""

from __future__ import annotations

import pytest
import torch

from segnets.deploy.passes.lraspp import ClassifiedFirst, GateInPlace
from segnets.heads.lraspp import LRASPPHead
from segnets.layers import SqueezeExcitation
from tests.deploy.common import fused_for_cpu, random_model, simplified
from tests.oracle import randomise_


def test_gate_in_place() -> None:
    gate = SqueezeExcitation(24, 8)
    randomise_(gate, 0)
    x = torch.randn(2, 24, 5, 7)
    with torch.no_grad():
        expected = gate(x)
        result = GateInPlace(gate)(x)
    assert torch.equal(result, expected)
    assert result.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("low_size", [(9, 14), (10, 13)])
def test_classified_first(align_corners: bool, low_size: tuple[int, int]) -> None:
    head = LRASPPHead(40, 96, 21, align_corners=align_corners).eval()
    randomise_(head, 0)
    features = {"low": torch.randn(2, 40, *low_size), "high": torch.randn(2, 96, 5, 7)}
    with torch.no_grad():
        expected = head(features)
        result = ClassifiedFirst(head)(features)
        half = ClassifiedFirst(head).to(torch.bfloat16)({name: each.bfloat16() for name, each in features.items()})
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()
    assert half.dtype == torch.float32


def test_networks_use_them() -> None:
    model = random_model(num_classes=5)
    plain = simplified(model)
    assert isinstance(plain.classifier, ClassifiedFirst)
    gates = sum(isinstance(module, SqueezeExcitation) for module in plain.modules())
    fused = fused_for_cpu(model)
    assert gates == 8
    assert sum(isinstance(module, GateInPlace) for module in fused.modules()) == gates
    assert not any(isinstance(module, SqueezeExcitation) for module in fused.modules())
