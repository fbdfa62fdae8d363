"""Every head on every backbone in TorchScript, torch.fx, torch.export, torch.compile and segnets.export.

Every run tests each head on the lightest backbones, with heads of 32 channels, which have the same graphs and take a
fraction of the time. `--full` tests all networks with their published widths.
"""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
import torch.fx
from torch import nn

import segnets
from tests.deploy.common import SMALL
from tests.family.common import NAMES, assert_equal, images, narrow_head, on, random_network
from tests.tiers import full_but


@pytest.fixture(scope="module")
def full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full"))


# A parametrized fixture, so that the tests of one network run in sequence and only one network is in memory.
@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest, full: bool) -> nn.Module:
    return random_network(request.param, **({} if full else narrow_head(request.param)))


def of(*backbones: str, also: Collection[str] = ()) -> pytest.MarkDecorator:
    """Parametrize a test by all networks. Every run tests `also` and the networks on `backbones`."""
    return pytest.mark.parametrize("network", full_but({*on(*backbones), *also}, NAMES), indirect=True, scope="module")


@of(also=["deeplabv3plus_resnet18", "lraspp_mobilenet_v3_small"])
def test_script_saved_and_reloaded_gives_the_same_bits(network: nn.Module) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from torch.jit
        torch.jit.save(torch.jit.script(network), buffer)
        buffer.seek(0)
        scripted = torch.jit.load(buffer)
    for size in ((32, 40), (33, 50)):
        x = images(2, *size)
        with torch.inference_mode():
            assert_equal(scripted(x), network(x))


@of(also=["deeplabv3plus_resnet18", "lraspp_mobilenet_v3_small"])
def test_graphs_of_torch_fx_give_the_same_bits(network: nn.Module) -> None:
    """In training mode, then in eval mode, with the running statistics of the training."""
    model = copy.deepcopy(network).train()
    copied = copy.deepcopy(model)
    for training in (True, False):
        graph = torch.fx.symbolic_trace(copied.train(training))
        model.train(training)
        for size in ((32, 40), (33, 50)):
            outputs = []
            for module in (graph, model):
                torch.manual_seed(0)  # for dropout
                with torch.no_grad():
                    outputs.append(module(images(2, *size)))
            assert_equal(*outputs)
    for key, tensor in model.state_dict().items():
        assert torch.equal(copied.state_dict()[key], tensor), key


@of(also=["pspnet_resnet18"])  # with the most unusual pooling
def test_torch_export_with_dynamic_batch_height_and_width(network: nn.Module) -> None:
    sizes = {
        0: torch.export.Dim("batch", min=1, max=64),
        2: torch.export.Dim("height", min=17, max=4096),
        3: torch.export.Dim("width", min=17, max=4096),
    }
    program = torch.export.export(network, (images(2, 64, 96),), dynamic_shapes=(sizes,)).module()
    for batch, height, width in ((1, 33, 65), (3, 64, 50)):
        x = images(batch, height, width)
        with torch.no_grad():
            expected, got = network(x), program(x)
        assert list(got) == list(expected)
        for key in expected:
            allowed = 1e-4 * expected[key].abs().max().item()  # other kernels, other last bits
            torch.testing.assert_close(got[key], expected[key], rtol=0, atol=allowed)


@of(also=["deeplabv3plus_resnet18"])
def test_compile_without_a_graph_break(network: nn.Module, full: bool) -> None:
    """The "eager" backend runs the captured graph with the same kernels, so the bits are the same."""
    torch.compiler.reset()
    # Symbolic sizes take four times as long to compile.
    compiled = torch.compile(network, fullgraph=True, backend="eager", dynamic=True if full else None)
    try:
        for size in ((64, 64), (33, 50)) if full else ((33, 50),):
            x = images(2, *size)
            with torch.no_grad():
                assert_equal(compiled(x), network(x))
    finally:
        torch.compiler.reset()  # it would keep the network alive


@of(also=["pspnet_mobilenet_v3_small"])  # tests/deploy exports others
def test_export_writes_a_file_that_agrees(network: nn.Module) -> None:
    """The export keeps the file only if it agrees with the network at several sizes."""
    with tempfile.TemporaryDirectory() as folder:
        report = segnets.export(network, Path(folder) / "model.ts", preprocessing=SMALL, target="portable")
    assert report.verification.passed
    assert report.verification.comparisons
    assert report.folded_batch_norms == sum(
        isinstance(module, nn.BatchNorm2d) and not name.startswith("aux_classifier.")
        for name, module in network.named_modules()
    )
    assert report.dropped_aux_classifier == (getattr(network, "aux_classifier", None) is not None)
