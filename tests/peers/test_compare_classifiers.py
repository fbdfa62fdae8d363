"""`compare` with the classifiers of timm and transformers, in memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segnets.card import JSON, ModelConfig
from segnets.errors import WeightsError
from segnets.weights import read_weights_file
from tests.peers import test_timm, test_transformers
from tests.peers.compare import randomised
from tests.peers.conversions import check_same
from tests.peers.test_compare import needs
from weights_tools import convert
from weights_tools.check.network import build_network
from weights_tools.check.peer import compare_with_peer


def timm_resnet(name: str, **arguments: Any) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    needs("timm")
    network: nn.Module = importlib.import_module("timm").create_model(name, num_classes=9, **arguments)
    state = randomised(network, gain=0.6).state_dict()
    return state, state


def timm_mobilenet(size: str) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    needs("timm")
    network: nn.Module = importlib.import_module("timm").create_model(f"mobilenetv3_{size}_100", num_classes=9)
    theirs = randomised(network, gain=0.88).state_dict()
    last = {"conv_head.": "classifier.0.", "classifier.": "classifier.3."}
    ends = {
        last[end] + name.removeprefix(end): tensor.flatten(1) if tensor.ndim == 4 else tensor
        for end in last
        for name, tensor in theirs.items()
        if name.startswith(end)
    }
    body = {name: tensor for name, tensor in theirs.items() if not name.startswith(tuple(last))}
    named = test_timm.mobilenet_names(body, test_timm.MOBILENETS[size][1])
    return theirs, {**{f"features.{name}": tensor for name, tensor in named.items()}, **ends}


def transformers_resnet(name: str, **arguments: Any) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    needs("transformers")
    transformers = importlib.import_module("transformers")
    config = transformers.ResNetConfig(num_labels=9, **test_transformers.SIZES[name], **arguments)
    theirs = randomised(transformers.ResNetForImageClassification(config), gain=0.6).state_dict()
    ours = {
        name.replace("classifier.1.", "fc.")
        if name.startswith("classifier.")
        else test_transformers.our_name(name.removeprefix("resnet.")): tensor
        for name, tensor in theirs.items()
    }
    return theirs, ours


Build = Callable[..., tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
DILATED: JSON = [False, True, True]
# Project, function that builds its network, its name, our name, our options, the project's arguments.
CLASSIFIERS: list[tuple[str, Build, str, str, dict[str, JSON], dict[str, Any]]] = [
    ("timm", timm_resnet, "resnet18", "resnet18", {}, {}),
    ("timm", timm_resnet, "resnet50", "resnet50", {}, {}),
    ("timm", timm_resnet, "resnext50_32x4d", "resnext50_32x4d", {}, {}),
    ("timm", timm_resnet, "resnet18", "resnet18", {"in_channels": 1}, {"in_chans": 1}),
    (
        "timm",
        timm_resnet,
        "resnet50",
        "resnet50",
        {"replace_stride_with_dilation": DILATED},
        {"output_stride": 8},
    ),
    ("timm", timm_resnet, "resnet50c", "resnet50", {"stem": "deep"}, {}),
    ("timm", timm_resnet, "resnet18d", "resnet18", {"stem": "deep", "downsample": "average"}, {}),
    ("timm", timm_resnet, "resnet50_gn", "resnet50", {"norm_layer": "group"}, {}),
    ("timm", lambda _: timm_mobilenet("large"), "large", "mobilenet_v3_large", {"norm_eps": 1e-5}, {}),
    ("timm", lambda _: timm_mobilenet("small"), "small", "mobilenet_v3_small", {"norm_eps": 1e-5}, {}),
    ("transformers", transformers_resnet, "resnet18", "resnet18", {}, {}),
    ("transformers", transformers_resnet, "resnet50", "resnet50", {"in_channels": 1}, {"num_channels": 1}),
    (
        "transformers",
        transformers_resnet,
        "resnet50",
        "resnet50",
        {"stride_in_1x1": True},
        {"downsample_in_bottleneck": True},
    ),
]


@pytest.mark.parametrize(
    ("project", "build", "theirs", "ours", "options", "arguments"),
    CLASSIFIERS,
    ids=lambda value: "" if callable(value) else str(value)[:40],
)
def test_classifiers(
    project: str, build: Build, theirs: str, ours: str, options: dict[str, JSON], arguments: dict[str, Any]
) -> None:
    their_state, our_state = build(theirs, **arguments)
    config = ModelConfig(ours, {"num_classes": 9, **options})
    check_same(compare_with_peer(project, their_state, config, build_network(config, our_state)))
    # With another eps, ours computes something else under the same names.
    if options.get("norm_layer") != "group":
        other = build_network(ModelConfig(ours, {**config.options, "norm_eps": 1e-4}), our_state)
        assert not compare_with_peer(project, their_state, config, other, sizes=[(64, 96)]).holds


def test_options_that_change_the_outputs_of_a_classifier() -> None:
    their_state, our_state = transformers_resnet("resnet50", downsample_in_bottleneck=True)
    plain = ModelConfig("resnet50", {"num_classes": 9})
    stride_in_1x1 = ModelConfig("resnet50", {"num_classes": 9, "stride_in_1x1": True})
    proof = compare_with_peer(
        "transformers", their_state, plain, build_network(stride_in_1x1, our_state), sizes=[(64, 96)]
    )
    assert not proof.holds
    refused: list[tuple[str, dict[str, Any]]] = [
        ("timm", {"stride_in_1x1": True}),
        ("timm", {"norm_eps": 1e-3}),
        ("timm", {"replace_stride_with_dilation": [True, False, False]}),
        ("transformers", {"stem": "deep"}),
        ("transformers", {"replace_stride_with_dilation": DILATED}),
    ]
    for project, options in refused:
        needs(project)
        config = ModelConfig("resnet50", {"num_classes": 9, **options})
        with pytest.raises(WeightsError, match=f"has no resnet50 with .*{next(iter(options))}"):
            compare_with_peer(project, their_state, config, build_network(plain, our_state))


@pytest.mark.parametrize("name", ["resnet18", "resnet18d"])
def test_a_backbone_alone_is_compared_with_timm(name: str, tmp_path: Path) -> None:
    """A network of timm can also lack the last layer."""
    torch.save(dict(timm_resnet(name)[0]), tmp_path / "w.pth")
    convert(tmp_path / "w.pth", tmp_path / "w.safetensors", backbone_only=True, compare_with="timm")
    card = read_weights_file(tmp_path / "w.safetensors").card
    assert card is not None
    proof: Any = card.provenance["proof"]
    assert proof["compared"]["timm"]["holds"] is True
    assert "num_classes=0" in proof["compared"]["timm"]["network"]


def test_a_backbone_alone_is_compared_with_transformers(tmp_path: Path) -> None:
    torch.save(dict(transformers_resnet("resnet18")[0]), tmp_path / "w.pth")
    report = convert(tmp_path / "w.pth", tmp_path / "w.safetensors", backbone_only=True, compare_with="transformers")
    assert "the same results" in report.proven[0]


def test_timms_mobilenet_is_never_a_backbone_alone(tmp_path: Path) -> None:
    """Without the last layer, timm's network still has one layer more than ours."""
    torch.save(dict(timm_mobilenet("small")[0]), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="a backbone alone has no logits to compare"):
        convert(tmp_path / "w.pth", tmp_path / "w.safetensors", backbone_only=True, compare_with="timm")
