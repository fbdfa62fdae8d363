"""IntermediateLayerGetter against torchvision's, and dotted paths, which torchvision lacks."""

from __future__ import annotations

import copy
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import nn

import segnets
from segnets import backbones
from segnets.backbones import mobilenet_v3_large, resnet18, resnet50
from tests.models.pairs import images
from tests.oracle import randomise_, torchvision
from tests.typed import part

TheirGetter = torchvision.models._utils.IntermediateLayerGetter


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    model = resnet18()
    randomise_(model)
    return model.eval()


@pytest.mark.parametrize(
    "layers",
    [{"layer4": "out"}, {"layer3": "aux", "layer1": "low"}, {"layer2": "x", "conv1": "stem"}, {"fc": "y"}, {}],
)
def test_equals_torchvision(backbone: nn.Module, layers: dict[str, str]) -> None:
    """Compare children, order and outputs. "fc" fails in both getters, because its input is not flattened."""
    ours, theirs = segnets.IntermediateLayerGetter(backbone, layers), TheirGetter(backbone, layers)
    assert list(ours) == list(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.return_layers == theirs.return_layers == layers
    assert ours._version == theirs._version
    if "fc" in layers:
        for getter in (ours, theirs):
            with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
                getter(images(1, 64, 64))
        return
    with torch.inference_mode():
        our_features, their_features = ours(images(2, 64, 48)), theirs(images(2, 64, 48))
    assert type(our_features) is type(their_features) is OrderedDict
    assert list(our_features) == list(their_features)
    assert all(torch.equal(our_features[key], their_features[key]) for key in their_features)


def test_missing_layers(backbone: nn.Module) -> None:
    with pytest.raises(ValueError, match="return_layers are not present in model"):
        TheirGetter(backbone, {"layer5": "out"})
    with pytest.raises(
        ValueError,
        match=r"return_layers are not present in model: 'layer5'; the children of this ResNet are conv1, bn1",
    ):
        segnets.IntermediateLayerGetter(backbone, {"layer5": "out"})
    for path in ("layer4.7", "layer4.", "layer4..conv1", ".conv1"):
        with pytest.raises(ValueError, match=f"not present in model: '{re.escape(path)}'"):
            segnets.IntermediateLayerGetter(backbone, {path: "out"})


def test_a_module_that_is_registered_twice() -> None:
    convolution = nn.Conv2d(3, 3, 1)
    module = nn.Sequential(OrderedDict(first=convolution, second=convolution))
    for getter in (segnets.IntermediateLayerGetter, TheirGetter):
        with pytest.raises(ValueError, match="return_layers are not present in model"):
            getter(module, {"second": "out"})


def test_numeric_names() -> None:
    layers = mobilenet_v3_large().features.eval()
    theirs = TheirGetter(layers, {"4": "low", "16": "high"})
    ours = segnets.IntermediateLayerGetter(layers, {"4": "low", "16": "high"})
    with torch.inference_mode():
        assert all(
            torch.equal(a, b)
            for a, b in zip(ours(images(1, 64, 64)).values(), theirs(images(1, 64, 64)).values(), strict=True)
        )


@pytest.fixture(scope="module")
def dotted() -> tuple[nn.Module, segnets.IntermediateLayerGetter]:
    model = resnet50()
    randomise_(model)
    layers = {"layer4": "out", "layer3.5.conv2": "conv", "layer3.1": "block", "layer3": "stage"}
    return model.eval(), segnets.IntermediateLayerGetter(model, layers)


def test_dotted_paths(dotted: tuple[nn.Module, segnets.IntermediateLayerGetter]) -> None:
    model, getter = dotted
    x = images(2, 64, 48)
    with torch.inference_mode():
        features = getter(x)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2"):
            x = part(model, name)(x)
        for block in part(model, "layer3")[:2]:
            x = block(x)
        assert torch.equal(features["block"], x)
        for block in part(model, "layer3")[2:]:
            x = block(x)
        assert torch.equal(features["stage"], x)
        assert torch.equal(features["out"], part(model, "layer4")(x))
    assert features["conv"].shape == (2, 256, 4, 3)
    assert list(features) == ["block", "conv", "stage", "out"], "in the order in which the layers run"


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda getter: pickle.loads(pickle.dumps(getter))])
def test_a_copy_with_dotted_paths_has_its_own_hooks(
    dotted: tuple[nn.Module, segnets.IntermediateLayerGetter], copier: Callable[[nn.Module], nn.Module]
) -> None:
    getter = dotted[1]
    other = copier(getter)
    x = images(1, 64, 64)
    with torch.inference_mode():
        expected, actual = getter(x), other(x)
        assert all(torch.equal(expected[key], actual[key]) for key in expected)
        assert not getter._tapped
        assert not other._tapped


def test_dotted_paths_compile_without_a_graph_break() -> None:
    torch.compiler.reset()
    layers = {"layer4": "out", "layer3.1.conv2": "conv", "layer3.1": "block", "layer3": "stage"}
    getter = segnets.IntermediateLayerGetter(resnet18().eval(), layers)
    compiled = torch.compile(copy.deepcopy(getter), fullgraph=True, backend="eager")
    x = images(1, 64, 64)
    with torch.no_grad():
        expected, actual = getter(x), compiled(x)
    assert list(actual) == list(expected)
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


def test_running_the_same_layers_elsewhere_does_not_leak(
    dotted: tuple[nn.Module, segnets.IntermediateLayerGetter],
) -> None:
    model, getter = dotted
    x = images(1, 64, 64)
    with torch.inference_mode():
        model(images(1, 32, 32))
        features = getter(x)
    assert list(features) == ["block", "conv", "stage", "out"]
    assert features["conv"].shape[-2:] == (4, 4)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")
def test_dotted_paths_are_refused_by_torchscript_and_checkpointing(
    dotted: tuple[nn.Module, segnets.IntermediateLayerGetter],
) -> None:
    getter = dotted[1]
    with pytest.raises(NotImplementedError, match=r"return_layers layer3\.5\.conv2, layer3\.1 are dotted paths"):
        torch.jit.script(getter)
    with pytest.raises(ValueError, match=r"does not support dotted paths: layer3\.5\.conv2"):
        backbones.forward_checkpointed(getter, images(1, 64, 64))
    with pytest.raises(TypeError, match="needs an IntermediateLayerGetter, got Identity"):
        backbones.forward_checkpointed(nn.Identity(), images(1, 64, 64))
