"""What torchvision's own tests check of its segmentation networks, checked of ours.

They are test_models.py (TorchScript, torch.fx, autocast, backpropagation) and test_backbone_utils.py (feature
extraction). A default run covers one network.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.fx
from torch import Tensor, nn

import segnets
from tests.oracle import NAMES, randomise_, torchvision
from tests.tiers import full_but
from tests.typed import part

EXTRACTION = importlib.import_module(f"{torchvision.__name__}.models.feature_extraction")

DEFAULT = ["lraspp_mobilenet_v3_large"]


@pytest.fixture(scope="module", params=full_but(DEFAULT, NAMES))
def network(request: pytest.FixtureRequest) -> nn.Module:
    model = getattr(segnets, request.param)(num_classes=10)
    randomise_(model)
    result: nn.Module = model.eval()
    return result


@pytest.fixture(autouse=True)
def no_warnings_of_torchscript() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def images() -> Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_scripted_saved_and_loaded(network: nn.Module, tmp_path: Path) -> None:
    scripted = torch.jit.script(network)
    scripted.save(str(tmp_path / "script.pt"))
    loaded = torch.jit.load(str(tmp_path / "script.pt"))
    with torch.no_grad():
        expected = network(images())
        for module in (scripted, loaded):
            got = module(images())
            assert list(got) == list(expected) == ["out"]
            assert torch.equal(got["out"], expected["out"])


def test_traced_by_torch_fx(network: nn.Module) -> None:
    """As it is, pickled, and scripted."""
    graph = torch.fx.symbolic_trace(network)
    with torch.no_grad():
        expected = network(images())["out"]
        for module in (graph, pickle.loads(pickle.dumps(graph)), torch.jit.script(graph)):
            assert torch.equal(module(images())["out"], expected)


def test_state_dict_saved_and_loaded(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    assert isinstance(network, segnets.SegmentationModel)
    assert network.config is not None
    other = segnets.create_model(network.config.name, num_classes=10).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(images())["out"], network(images())["out"])


def test_whole_module_saved_and_loaded(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network, tmp_path / "network.pth")
    loaded = torch.load(tmp_path / "network.pth", weights_only=False)
    with torch.no_grad():
        assert torch.equal(loaded(images())["out"], network(images())["out"])


def test_backpropagation_to_the_image(network: nn.Module) -> None:
    x = images().requires_grad_()
    network(x)["out"].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    network.zero_grad()


def test_autocast(network: nn.Module) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(images())["out"]
    assert logits.dtype == torch.bfloat16
    with torch.no_grad():
        expected = network(images())["out"]
    assert (logits - expected).norm() < 0.5 * expected.norm()  # random weights amplify the rounding


def test_feature_extraction_in_both_modes(network: nn.Module) -> None:
    """Feature maps by the names of their layers, with gradients, eager and scripted."""
    model = copy.deepcopy(network).train()
    train_nodes, eval_nodes = EXTRACTION.get_graph_node_names(model)
    wanted = {"backbone.16.2": "features", "classifier.interpolate": "resized", "interpolate": "logits"}
    wanted = {node: name for node, name in wanted.items() if node in train_nodes}
    assert len(wanted) >= 2, train_nodes
    assert set(wanted) <= set(eval_nodes)
    extractor = EXTRACTION.create_feature_extractor(model, wanted)
    for mode in (True, False):
        extractor.train(mode)
        model.train(mode)
        with torch.no_grad():
            torch.manual_seed(0)
            expected = model(images())["out"]
            torch.manual_seed(0)
            got = extractor(images())
        assert torch.equal(got["logits"], expected)
        assert list(got) == list(wanted.values())
    scripted = torch.jit.script(extractor.train())
    torch.stack([each.mean() for each in scripted(images()).values()]).sum().backward()
    assert all(parameter.grad is not None for parameter in part(model, "backbone").parameters())
