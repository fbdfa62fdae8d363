"""Comparing outputs, and the images to compare on: the basis of every check of a conversion."""

from __future__ import annotations

import pytest
import torch

import segnets
from segnets.card import ModelConfig
from segnets.errors import WeightsError
from weights_tools.check.outputs import OutputComparison, compare_outputs, random_images
from weights_tools.check.peer import PeerComparison, default_sizes
from weights_tools.check.peers import PEERS


def test_default_sizes_reach_every_dilation() -> None:
    torchvision = PEERS["torchvision"]
    config = ModelConfig("deeplabv3_resnet50", segnets.registry.MODELS["deeplabv3_resnet50"].resolve({}))
    assert default_sizes(torchvision, config) == [(64, 96), (65, 97), (32, 304), (305, 33)]
    config = ModelConfig("deeplabv3plus_resnet50", {"output_stride": 16, "atrous_rates": [12, 24, 36]})
    assert default_sizes(PEERS["smp"], config) == [(64, 96), (96, 160), (32, 608), (608, 32)]


def test_compare_outputs() -> None:
    expected = torch.tensor([[[[4.0, 0.0]], [[1.0, 2.0]]]])
    got = expected + torch.tensor([[[[0.0, 3.0]], [[0.0, 0.0]]]])
    (measured,) = compare_outputs({"out": got}, {"out": expected}, size=(1, 2), source="theirs")
    assert measured == OutputComparison("out", (1, 2), "float32", 3.0, 4.0, 0.5, 1e-4)
    assert measured.relative == 0.75
    assert measured.limit == 4e-4
    assert not measured.holds
    (single,) = compare_outputs({"out": got[:, :1] - 2}, {"out": expected[:, :1] - 2}, size=(1, 2), source="theirs")
    assert single.agreement == 0.5
    (zero,) = compare_outputs({"out": got * 0}, {"out": got * 0}, size=(1, 2), source="theirs")
    assert not zero.holds
    for bad, reason in (
        ({"aux": got}, "theirs returns 'out', but the converted network returns 'aux'"),
        ({"out": got[:, :1]}, "has shape"),
        ({"out": got / 0}, "'out' of the converted network holds NaN"),
    ):
        with pytest.raises(WeightsError, match=reason):
            compare_outputs(bad, {"out": expected}, size=(1, 2), source="theirs")
    images = random_images((37, 51), 4)
    assert images.shape == (1, 4, 37, 51)
    assert 0.5 < images.std() < 2
    assert torch.equal(images, random_images((37, 51), 4))


def test_verdict() -> None:
    exact = OutputComparison("out", (4, 4), "float64", 9e-10, 1.0, 1.0, 1e-9)
    near = OutputComparison("out", (4, 4), "float32", 2e-5, 1.0, 1.0, 1e-4)
    far = OutputComparison("aux", (4, 4), "float32", 0.5, 1.0, 0.9, 1e-4)
    zero = OutputComparison("out", (4, 4), "float32", 0.0, 0.0, 1.0, 1e-4)
    other = OutputComparison("out", (4, 4), "float64", 0.5, 1.0, 0.9, 1e-9)
    for measured, verdict in (
        ((exact, near), "the same results: no output differs by more than 2e-05 of the largest"),
        ((other, far), "NOT the same: 'aux' differs by 0.5 at 4x4 in float32; rounding explains at most 0.0001"),
        ((other, near), "NOT the same: 'out' differs by 0.5 at 4x4 in float64; rounding explains at most 1e-09"),
        ((zero,), "inconclusive: 'out' of timm's network is 0 everywhere"),
    ):
        assert PeerComparison("timm", "1", "timm.create_model()", {}, measured).verdict == verdict
