"""Recognise networks by names and shapes alone, and name unsupported ones in the refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segnets.card import ModelConfig
from segnets.errors import WeightsError
from tests.oracle import CLASSIFIERS, NAMES, torchvision
from tests.weights_tools.files import described
from weights_tools.commands import convert
from weights_tools.recognise._fit import fit_tensors
from weights_tools.recognise.layouts import LAYOUTS, match_layout
from weights_tools.recognise.layouts._unsupported import UNSUPPORTED, explain_no_match
from weights_tools.recognise.layouts.base import Match

State = dict[str, Tensor]


@cache
def _state(name: str, **options: Any) -> State:
    with torch.device("meta"):
        if name in NAMES:
            options = {"weights_backbone": None, **options}
        return dict(torchvision.models.get_model(name, weights=None, **options).state_dict())


def _refusal(state: State) -> str:
    def attempt() -> None:
        match = match_layout(described(state))
        fit_tensors(match.config, match.names, described(state))

    with pytest.raises(WeightsError) as error:
        attempt()
    return str(error.value)


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_segmentation_networks(name: str, aux: bool) -> None:
    if name.startswith("lraspp"):
        state, options = _state(name, num_classes=19), {"num_classes": 19}
    else:
        state = _state(name, num_classes=19, aux_loss=aux)
        options = {"num_classes": 19, "aux_loss": aux}
    match = match_layout(described(state))
    assert (match.config.name, match.config.options) == (name, options)
    assert set(fit_tensors(match.config, match.names, described(state)).names) == set(state)
    assert match.geometry["align_corners"] is False


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classification_networks(name: str) -> None:
    state = _state(name, num_classes=7)
    match = match_layout(described(state))
    assert (match.config.name, match.config.options) == (name, {"num_classes": 7})
    assert set(fit_tensors(match.config, match.names, described(state)).names) == set(state)


def _renamed(state: State, pattern: str, replacement: str) -> State:
    return {re.sub(pattern, replacement, name): tensor for name, tensor in state.items()}


def _on(body: State, head: str = "fcn_resnet50") -> State:
    """The backbone of one network under the head of another."""
    new = {f"backbone.{name}": tensor for name, tensor in body.items() if not name.startswith("fc.")}
    return new | {name: tensor for name, tensor in _state(head).items() if not name.startswith("backbone.")}


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


UNSUPPORTED_NETWORKS: dict[str, tuple[Callable[[], State], str]] = {
    "ResNeXt as ResNet-50": (lambda: _on(_state("resnext50_32x4d")), "FCN on a resnext50_32x4d backbone"),
    "wide as ResNet-50": (lambda: _on(_state("wide_resnet50_2")), "FCN on a wide_resnet50_2 backbone"),
    "ResNet-18": (lambda: _on(_state("resnet18")), "FCN on a resnet18 backbone"),
    "ResNet-152": (lambda: _on(_state("resnet152"), "deeplabv3_resnet50"), "DeepLabV3 on a resnet152 backbone"),
    "LR-ASPP on ResNet": (
        lambda: _on(_state("resnet50"), "lraspp_mobilenet_v3_large"),
        "LR-ASPP on a resnet50 backbone",
    ),
    "group norm": (
        lambda: {
            n: t for n, t in _state("resnet50").items() if not n.endswith(("running_mean", "running_var", "tracked"))
        },
        "a resnet50 with group normalisation",
    ),
    "squeeze-and-excitation": (
        lambda: _state("resnet50") | {"layer1.0.se.fc1.weight": _meta(16, 256, 1, 1)},
        "a resnet50 with squeeze-and-excitation blocks",
    ),
    "unknown depth": (
        lambda: {n: t for n, t in _state("resnet50").items() if not n.startswith("layer3.5.")},
        "a ResNet of 3-4-5-3 bottleneck blocks, 64 channels wide, 1 groups",
    ),
    "backbone only": (
        lambda: {n: t for n, t in _state("fcn_resnet50").items() if n.startswith("backbone.")},
        r"only the backbone of a segmentation network \(resnet50\), without a classifier",
    ),
    "timm's MobileNetV3 of another release": (
        lambda: {"conv_stem.weight": _meta(16, 3, 3, 3), "conv_head.weight": _meta(1280, 960, 1, 1)},
        "a MobileNet or EfficientNet of timm",
    ),
    "no fc": (
        lambda: {n: t for n, t in _state("resnet50").items() if n != "fc.weight"},
        "a resnet50 without its classifier",
    ),
    "MobileNet of 15 parts": (
        lambda: {
            n: t for n, t in _state("mobilenet_v3_large").items() if not n.startswith(("features.15", "features.16"))
        },
        "a MobileNetV3 of 15 parts",
    ),
}


@pytest.mark.parametrize("case", UNSUPPORTED_NETWORKS)
def test_unsupported_networks_are_named(case: str) -> None:
    make, message = UNSUPPORTED_NETWORKS[case]
    assert re.search(message, _refusal(make()))


@pytest.mark.parametrize(("name", "stem"), [("fcn_resnet50", "conv1"), ("lraspp_mobilenet_v3_large", "0.0")])
def test_other_channels_are_left_to_the_layout_segnets(name: str, stem: str) -> None:
    state = dict(_state(name))
    kernels = state[f"backbone.{stem}.weight"]
    state[f"backbone.{stem}.weight"] = _meta(kernels.shape[0], 4, *kernels.shape[2:])
    assert re.search("4 input channels, which torchvision does not have; --layout segnets converts it", _refusal(state))
    assert match_layout(described(state), "segnets").config.options["in_channels"] == 4


def test_depth_and_head_come_from_the_tensors() -> None:
    assert match_layout(described(_state("fcn_resnet101"))).config.name == "fcn_resnet101"
    assert match_layout(described(_state("deeplabv3_resnet50"))).config.name == "deeplabv3_resnet50"


def test_every_difference_is_listed_at_once() -> None:
    state = dict(_state("fcn_resnet50", aux_loss=False))
    del state["backbone.bn1.running_mean"], state["classifier.4.bias"]
    state["backbone.extra.weight"] = _meta(3)
    state["classifier.0.weight"] = _meta(512, 2049, 3, 3)
    message = _refusal(state)
    assert "the tensors look like fcn_resnet50(num_classes=21, aux_loss=False) but do not fit it: " in message
    assert "2 missing, 1 unexpected, 1 of a different shape" in message
    for line in (
        "- backbone.bn1.running_mean",
        "- classifier.4.bias",
        "+ backbone.extra.weight",
        "~ classifier.0.weight: file (512, 2049, 3, 3), model (512, 2048, 3, 3)",
    ):
        assert line in message


def test_long_lists_are_cut_and_counted() -> None:
    state = {n: t for n, t in _state("fcn_resnet50").items() if not n.startswith("backbone.layer4.2.")}
    state["backbone.layer4.2.conv1.weight"] = _meta(512, 2048, 1, 1)
    message = _refusal(state)
    assert "17 missing" in message
    assert "- and 7 more" in message


def test_half_an_auxiliary_classifier_is_refused() -> None:
    state = {n: t for n, t in _state("fcn_resnet50", aux_loss=True).items() if n != "aux_classifier.4.weight"}
    assert "- aux_classifier.4.weight" in _refusal(state)


def test_statistics_without_counters_are_legacy_but_counters_alone_are_not() -> None:
    state = _state("fcn_resnet50")
    old = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    match = match_layout(described(old))
    assert len(fit_tensors(match.config, match.names, described(old)).zeroed) == 54
    broken = {n: t for n, t in old.items() if n != "backbone.layer4.0.bn1.running_mean"}
    assert "2 missing" in _refusal(broken)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("encoder.layer4.0.conv1.lora_A.weight", "a LoRA adapter"),
        ("decode_head.conv_seg.weight", "mmsegmentation"),
        ("decoder.p5.weight", "an FPN of segmentation_models_pytorch"),
        ("backbone.low_level_features.0.0.weight", "VainF"),
        ("blocks.0.0.conv_dw.weight", "timm"),
        ("resnet.embedder.embedder.convolution.weight", "a ResNet of transformers"),
        ("roi_heads.box_head.fc6.weight", "a detection network"),
    ],
)
def test_unsupported_projects_are_named(name: str, what: str) -> None:
    message = explain_no_match(described({name: _meta(1)}))
    assert what in message
    assert "which is not supported" in message


def test_patterns_of_unsupported_networks_compile() -> None:
    assert all(re.compile(pattern) and what for pattern, what in UNSUPPORTED)


def test_unknown_tensors() -> None:
    assert "no known network has these 2 tensors, whose names begin with 'a.weight', 'b'" in _refusal(
        {"a.weight": _meta(1), "b": _meta(2)}
    )


def test_layouts_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = described(_state("resnet18"))
    assert match_layout(tensors, "torchvision").config.name == "resnet18"
    with pytest.raises(WeightsError, match="unknown layout 'keras'; known are auto, torchvision, timm, smp, mmseg"):
        match_layout(tensors, "keras")
    assert set(convert.LAYOUTS) == set(LAYOUTS), "the command offers every layout"

    class Other:
        name, version = "other", 1

        def match(self, evidence: Any) -> Match:
            match = LAYOUTS["torchvision"].match(evidence)
            assert isinstance(match, Match)
            return Match("other", 1, ModelConfig("resnet18", {"num_classes": 1000, "norm_eps": 1e-3}), match.names, {})

    monkeypatch.setitem(LAYOUTS, "other", Other())
    with pytest.raises(WeightsError, match="the tensors fit several layouts: torchvision, other"):
        match_layout(tensors)


def test_equal_networks_of_two_projects_are_one_match() -> None:
    match = match_layout(described(_state("resnet50")))
    assert match.layout == "torchvision"
    assert "timm has the same names and computes the same" in match.notes
    assert match_layout(described(_state("resnet50")), "timm").config == match.config


VARIANTS: dict[str, tuple[Callable[[], State], dict[str, Any]]] = {
    "average pooling in shortcuts": (
        lambda: _renamed(_renamed(_state("resnet50"), r"sample\.1\.", "sample.2."), r"sample\.0\.", "sample.1."),
        {"downsample": "average"},
    ),
    "four channels": (lambda: _state("resnet50") | {"conv1.weight": _meta(64, 4, 7, 7)}, {"in_channels": 4}),
}


@pytest.mark.parametrize("case", VARIANTS)
def test_variants_of_timm(case: str) -> None:
    make, options = VARIANTS[case]
    match = match_layout(described(make()))
    assert (match.layout, match.config.options) == ("timm", {"num_classes": 1000, **options})
    assert set(fit_tensors(match.config, match.names, described(make())).names) == set(make())


def test_group_norm_has_to_be_chosen() -> None:
    bare = {n: t for n, t in _state("resnet50").items() if not n.endswith(("running_mean", "running_var", "tracked"))}
    match = match_layout(described(bare), "timm", {"norm_layer": "group"})
    assert match.config.options == {"num_classes": 1000, "norm_layer": "group"}
    assert set(fit_tensors(match.config, match.names, described(bare)).names) == set(bare)


@pytest.mark.parametrize("options", [{"width_mult": 0.5}, {"reduced_tail": True}])
def test_other_mobilenets_are_refused(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        model: nn.Module = torchvision.models.mobilenet_v3_large(weights=None, **options)
    assert re.search("MobileNetV3", _refusal(dict(model.state_dict())))
