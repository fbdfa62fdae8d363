"""ASPP with its pooled branch projected separately, compared with the plain layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from segnets.deploy.passes.aspp import FusedPooledApart, PooledApart, can_pool_apart
from segnets.deploy.passes.pooling import MeanByWindow
from segnets.layers import ASPP
from tests.deploy.common import fused_for_cpu, random_model, simplified
from tests.oracle import randomise_


def simplified_aspp(**options: Any) -> ASPP:
    """Return an ASPP without norms and dropout, as earlier passes leave it, with a bias in its projection."""
    aspp = ASPP(24, (2, 3), 16, norm_layer=nn.Identity, **options).eval()
    aspp.project[0] = nn.Conv2d(64, 16, 1)
    aspp.project[3] = nn.Identity()
    randomise_(aspp, 0)
    return aspp


@pytest.mark.parametrize("pool_first", [False, True])
def test_pooled_apart(pool_first: bool) -> None:
    aspp = simplified_aspp(pool_first=pool_first)
    assert can_pool_apart(aspp)
    x = torch.randn(2, 24, 9, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, result = aspp(x), PooledApart(aspp)(x)
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()


def test_not_with_a_3x3_projection() -> None:
    aspp = simplified_aspp()
    aspp.project[0] = nn.Conv2d(64, 16, 3, padding=1)
    assert not can_pool_apart(aspp)


def test_not_with_an_unfolded_norm() -> None:
    aspp = simplified_aspp()
    aspp.project[1] = nn.GroupNorm(4, 16)
    assert not can_pool_apart(aspp)


def test_not_with_another_structure() -> None:
    aspp = simplified_aspp()
    aspp.project = nn.Sequential(*list(aspp.project)[:3])
    assert not can_pool_apart(aspp)
    aspp = simplified_aspp()
    aspp.convs = nn.ModuleList([*aspp.convs[:-1], nn.Conv2d(24, 16, 1)])  # no pooling branch
    assert not can_pool_apart(aspp)
    aspp = simplified_aspp()
    aspp.project[0] = nn.Conv2d(64, 16, 1, groups=4)
    assert not can_pool_apart(aspp)


@pytest.mark.parametrize(
    ("name", "options", "apart"),
    [
        ("deeplabv3_resnet18", {}, 1),
        ("deeplabv3plus_mobilenet_v3_small", {}, 1),
        ("deeplabv3_resnet18", {"head_variant": "mmseg"}, 0),  # projects with a 3x3 convolution
    ],
)
def test_networks_use_it(name: str, options: dict[str, Any], apart: int) -> None:
    model = random_model(name, **options)
    assert sum(isinstance(module, PooledApart) for module in simplified(model).modules()) == apart
    fused = fused_for_cpu(model, torch.bfloat16)
    types = [type(module) for module in fused.modules()]
    assert types.count(FusedPooledApart) == apart
    assert nn.AdaptiveAvgPool2d not in types
    assert MeanByWindow in types
