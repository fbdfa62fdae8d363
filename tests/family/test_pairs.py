"""Every head on every backbone: logits for any image size, gradients for all parameters, saving and loading.

The networks have their published widths.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import segnets
from segnets.registry import BACKBONES
from tests.family.common import EVERYDAY, HEAD_NAMES, NAMES, assert_equal, images, random_network
from tests.tiers import full_but


# Kept one at a time, because all of them would take 14 GB.
@pytest.fixture(scope="module", params=full_but(EVERYDAY, NAMES))
def network(request: pytest.FixtureRequest) -> nn.Module:
    return random_network(request.param)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that is removed after the test; pytest would keep gigabytes in its own `tmp_path`s."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def test_every_head_is_on_every_backbone() -> None:
    assert sorted(f"{head}_{backbone}" for head in HEAD_NAMES for backbone in BACKBONES) == NAMES
    assert set(NAMES) > EVERYDAY
    assert all(any(name.startswith(f"{head}_") for name in EVERYDAY) for head in HEAD_NAMES)


def test_logits_have_the_size_of_the_image(network: nn.Module) -> None:
    keys = ["out"] if getattr(network, "aux_classifier", None) is None else ["out", "aux"]
    for height, width in ((33, 50), (1, 1), (2, 35)):
        with torch.inference_mode():
            output = network(images(1, height, width))
        assert list(output) == keys
        for key, logits in output.items():
            assert logits.shape == (1, 3, height, width), key
            assert logits.isfinite().all(), key


def test_saving_and_loading_keeps_the_network(network: nn.Module, folder: Path) -> None:
    segnets.save(network, folder / "w.safetensors")
    loaded = segnets.load(folder / "w.safetensors")
    assert loaded.config == network.config
    ours, theirs = loaded.state_dict(), network.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    x = images(1, 18, 33)
    with torch.inference_mode():
        assert_equal(loaded(x), network(x))


def test_training_reaches_every_parameter(network: nn.Module) -> None:
    """This has to be the last test of a network, because it changes the batch norms."""
    network.train()
    output = network(images(2, 33, 41))
    sum(logits.square().mean() for logits in output.values()).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), f"{key} has no gradient but zero"
