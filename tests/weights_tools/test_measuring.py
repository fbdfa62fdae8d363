"""How far apart results are, and on which images: what every proof of a conversion rests on."""

from __future__ import annotations

import pytest
import torch

import segnets
from segnets.card import ModelConfig
from segnets.errors import WeightsError
from weights_tools.check.outputs import Measured, measure, random_images
from weights_tools.check.peer import Proof, default_sizes, explain
from weights_tools.check.peers import PROJECTS


def test_sizes_that_show_every_dilation() -> None:
    torchvision = PROJECTS["torchvision"]
    config = ModelConfig("deeplabv3_resnet50", segnets.registry.MODELS["deeplabv3_resnet50"].resolve({}))
    assert default_sizes(torchvision, config) == [(64, 96), (65, 97), (32, 304), (305, 33)]
    config = ModelConfig("deeplabv3plus_resnet50", {"output_stride": 16, "atrous_rates": [12, 24, 36]})
    assert default_sizes(PROJECTS["smp"], config) == [(64, 96), (96, 160), (32, 608), (608, 32)]


def test_measuring() -> None:
    expected = torch.tensor([[[[4.0, 0.0]], [[1.0, 2.0]]]])
    got = expected + torch.tensor([[[[0.0, 3.0]], [[0.0, 0.0]]]])
    (measured,) = measure({"out": got}, {"out": expected}, size=(1, 2), whose="theirs")
    assert measured == Measured("out", (1, 2), "float32", 3.0, 4.0, 0.5, 1e-4)
    assert measured.relative == 0.75
    assert measured.limit == 4e-4
    assert not measured.holds
    (single,) = measure({"out": got[:, :1] - 2}, {"out": expected[:, :1] - 2}, size=(1, 2), whose="theirs")
    assert single.agreement == 0.5
    (nothing,) = measure({"out": got * 0}, {"out": got * 0}, size=(1, 2), whose="theirs")
    assert not nothing.holds
    for bad, reason in (
        ({"aux": got}, "theirs gives 'out', and the converted network 'aux'"),
        ({"out": got[:, :1]}, "has the shape"),
        ({"out": got / 0}, "'out' of the converted network holds NaN"),
    ):
        with pytest.raises(WeightsError, match=reason):
            measure(bad, {"out": expected}, size=(1, 2), whose="theirs")
    images = random_images((37, 51), 4)
    assert images.shape == (1, 4, 37, 51)
    assert 0.5 < images.std() < 2
    assert torch.equal(images, random_images((37, 51), 4))


def test_the_verdict_in_one_sentence() -> None:
    exact = Measured("out", (4, 4), "float64", 9e-10, 1.0, 1.0, 1e-9)
    near = Measured("out", (4, 4), "float32", 2e-5, 1.0, 1.0, 1e-4)
    far = Measured("aux", (4, 4), "float32", 0.5, 1.0, 0.9, 1e-4)
    zero = Measured("out", (4, 4), "float32", 0.0, 0.0, 1.0, 1e-4)
    other = Measured("out", (4, 4), "float64", 0.5, 1.0, 0.9, 1e-9)
    for measured, said in (
        ((exact, near), "the same results: none differs by more than 2e-05 of the largest"),
        ((other, far), "NOT the same: 'aux' differs by 0.5 at 4x4 in float32, where 0.0001 would be rounding"),
        ((other, near), "NOT the same: 'out' differs by 0.5 at 4x4 in float64, where 1e-09 would be rounding"),
        ((zero,), "nothing is proven: all results of timm's network in 'out' are 0"),
    ):
        assert explain(Proof("timm", "1", "timm.create_model()", {}, measured)) == said
