"""Training, scripting, compiling and exporting of networks with each norm layer."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import segnets
from segnets.layers import FrozenBatchNorm2d, SyncBatchNorm2d, as_batch_norm, norm_layer
from tests.deploy.common import SMALL
from tests.models.pairs import images
from tests.oracle import randomise_, randomised
from tests.tiers import full_but
from tests.typed import gradient_of

NORMS = ["batch", "sync", "frozen", "group"]


def network(norm: Any, name: str = "deeplabv3_mobilenet_v3_small", **options: Any) -> nn.Module:
    options = {"num_classes": 5, "head_channels": 32, "norm_layer": norm, "head_norm_layer": norm, **options}
    return randomised(segnets.create_model, name, aux_loss=True, **options).eval()


@pytest.mark.parametrize("norm", full_but(["sync"], NORMS))  # a class of ours, which exports replace
def test_scripted_compiled_and_exported(norm: str, tmp_path: Path) -> None:
    model = network(norm, "pspnet_resnet18", backbone_stages=2)
    types = [type(module) for module in model.modules()]
    x = images(2, 65, 81)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's own
        scripted = torch.jit.script(model)
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    program = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        expected = model(x)["out"]
        assert torch.equal(scripted(x)["out"], expected)
        assert torch.equal(compiled(x)["out"], expected)
        torch.testing.assert_close(program(x)["out"], expected, rtol=1e-4, atol=1e-4)
    report = segnets.export(model, tmp_path / "m.ts", preprocessing=SMALL, target="portable")
    assert report.verification.passed
    assert report.folded_batch_norms == (0 if norm == "group" else 15)
    assert [type(module) for module in model.modules()] == types, "the network itself was not changed"


@pytest.mark.parametrize("norm", NORMS)
def test_training_in_one_process(norm: str) -> None:
    model = network(norm).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    model(images(2, 65, 81))["out"].square().mean().backward()
    learnt = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert all(name.startswith("aux_classifier") for name in learnt)
    moved = [name for name, buffer in model.named_buffers() if name in before and not torch.equal(buffer, before[name])]
    assert bool(moved) == (norm in ("batch", "sync"))
    assert bool(before) == (norm != "group")


def test_sync_in_one_process_equals_batch_norm() -> None:
    sync, plain = network("sync").train(), network("batch").train()
    plain.load_state_dict(sync.state_dict(), strict=True)
    x = images(3, 65, 81)
    outputs = []
    for model in (sync, plain):
        torch.manual_seed(4)
        outputs.append(model(x)["out"])
        outputs[-1].square().mean().backward()
    assert torch.equal(*outputs)
    for (name, one), other in zip(sync.named_parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        assert one.grad is None or torch.equal(one.grad, gradient_of(other)), name


@pytest.mark.parametrize("name", ["sync", "frozen"])
def test_as_batch_norm(name: str) -> None:
    norm = norm_layer(name, eps=1e-2)(6)
    assert isinstance(norm, SyncBatchNorm2d | FrozenBatchNorm2d)
    randomise_(norm)
    plain = as_batch_norm(norm.double().eval())
    assert type(plain) is nn.BatchNorm2d
    assert not plain.training
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(plain(x), norm(x), rtol=1e-12, atol=1e-12)
    group = norm_layer("group")(6)
    assert as_batch_norm(group) is group


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match="norm_layer='layer': expected one of 'batch', 'sync', 'frozen', 'group'"):
        norm_layer("layer")
