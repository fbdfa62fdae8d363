"""Graphs of torch.fx: annotations, checks, norms, feature maps and quantization."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from typing import Any

import pytest
import torch
import torch.fx
from torch import Tensor, nn

import segnets
from segnets.backbones import IntermediateLayerGetter, mobilenet_v3_small, resnet18, resnet50
from tests.oracle import torchvision


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 33, 40, generator=torch.Generator().manual_seed(0))


def modules_of_segnets() -> list[type[nn.Module]]:
    """Return every module class of the networks."""
    classes: dict[str, type[nn.Module]] = {}
    for package in ("layers", "backbones", "heads"):
        folder = importlib.import_module(f"segnets.{package}")
        for found in pkgutil.iter_modules(folder.__path__, f"segnets.{package}."):
            classes |= dict(inspect.getmembers(importlib.import_module(found.name), inspect.isclass))
    classes["SegmentationModel"] = segnets.SegmentationModel
    return [each for each in classes.values() if issubclass(each, nn.Module) and each.__module__.startswith("segnets")]


def test_the_annotations_of_every_forward_are_types() -> None:
    """torch.fx copies them into the code of a graph, where TorchScript and pickle can't resolve strings."""
    modules = modules_of_segnets()
    assert len(modules) > 20
    for module in modules:
        for name, annotation in module.forward.__annotations__.items():
            assert not isinstance(annotation, str), f"{module.__name__}.forward: {name}: {annotation!r}"


def test_a_graph_checks_its_input_like_the_network() -> None:
    model = segnets.create_model("deeplabv3_mobilenet_v3_small", num_classes=3, head_channels=32)
    graph = torch.fx.symbolic_trace(model)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from torch.jit
        scripted = torch.jit.script(graph)
    for wrong, message in (
        (images()[0], "expected 4D input"),
        (torch.zeros(2, 3, 33, 40, dtype=torch.uint8), "expected a floating point image"),
        (images(1), "got a batch of one image: the pooling branch of ASPP"),
    ):
        for each in (model, graph, scripted):
            with pytest.raises((ValueError, RuntimeError, torch.jit.Error), match=message):
                each(wrong)


@pytest.mark.parametrize(
    "options",
    [
        {"norm_layer": "sync", "head_norm_layer": "sync"},
        {"norm_layer": "frozen"},
        {"norm_layer": "group", "head_norm_layer": "group"},
        {"norm_eval": True},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_norms_and_checkpointing_can_be_traced(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = segnets.create_model("pspnet_resnet18", num_classes=3, head_channels=16, head_dropout=0.0, **options)
    graph = torch.fx.symbolic_trace(model)
    expected, got = model(images())["out"], graph(images())["out"]
    assert torch.equal(got, expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
    given = torch.autograd.grad(got.square().sum(), list(graph.parameters()), allow_unused=True)
    for ours, theirs in zip(given, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or theirs is None or torch.equal(ours, theirs)
    assert torch.equal(graph.eval()(images())["out"], model.eval()(images())["out"])


def test_a_synchronised_norm_is_one_step_of_a_graph() -> None:
    model = segnets.create_model("fcn_resnet18", norm_layer="sync")
    graph = torch.fx.symbolic_trace(model)
    steps = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    assert "backbone.layer4.1.bn2" in steps
    assert isinstance(graph.get_submodule("backbone.layer4.1.bn2"), nn.SyncBatchNorm)


def test_dotted_paths_in_a_graph() -> None:
    backbone = resnet18().eval()
    getter = IntermediateLayerGetter(backbone, {"layer3.0": "block", "layer4": "out"})
    expected = getter(images())
    got = torch.fx.symbolic_trace(getter)(images())
    assert list(got) == ["block", "out"]
    assert all(torch.equal(got[name], expected[name]) for name in got)
    refused = IntermediateLayerGetter(backbone, {"layer3.0.conv2": "conv", "layer4": "out"})
    with pytest.raises(NotImplementedError, match=r"can't read the outputs of layer3\.0\.conv2 .*create_feature_extr"):
        torch.fx.symbolic_trace(refused)


@pytest.mark.parametrize("classifier", [resnet18, resnet50, mobilenet_v3_small], ids=lambda each: str(each.name))
def test_a_classifier_has_the_graph_of_torchvisions(classifier: Any) -> None:
    """The same operations in the same order, except that torchvision's blocks of MobileNetV3 are whole steps."""
    ours = torch.fx.symbolic_trace(classifier())
    theirs = torch.fx.symbolic_trace(getattr(torchvision.models, classifier.name)(weights=None))
    assert [(n.op, str(n.target)) for n in ours.graph.nodes] == [(n.op, str(n.target)) for n in theirs.graph.nodes]


def test_quantization_by_torch_fx() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        torch.manual_seed(0)
        model = segnets.create_model("deeplabv3_resnet18", num_classes=3, head_channels=16).eval()
        engine = torch.backends.quantized.engine
        prepared = prepare_fx(model, get_default_qconfig_mapping(engine), (images(),))
        with torch.no_grad():
            prepared(images())
            quantized = convert_fx(prepared)
            expected, got = model(images())["out"], quantized(images())["out"]
    kinds = {type(module).__module__.partition(".quantized")[0] for module in quantized.modules()}
    assert any(kind.startswith("torch.ao.nn") for kind in kinds), kinds
    assert not torch.equal(got, expected)
    assert (got - expected).abs().max() < 0.1 * expected.abs().max()
