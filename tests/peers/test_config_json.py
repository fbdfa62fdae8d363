"""Config files of SMP, timm and transformers, compared with the networks that they describe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import segnets
import weights_tools
from segnets.card import ModelConfig
from segnets.registry import build_described
from tests.peers import test_smp as peer
from tests.peers.compare import Rules, needs
from tests.peers.layers import layers
from weights_tools.reader.values import StorageRef, TensorRef
from weights_tools.recognise.config import find_contradiction, read_source_config
from weights_tools.recognise.layouts import Match
from weights_tools.recognise.layouts.base import Evidence
from weights_tools.recognise.layouts.torchvision import TorchvisionLayout


@needs("segmentation_models_pytorch")
@pytest.mark.parametrize(
    ("network", "arguments", "rules"),
    [
        ("DeepLabV3", {}, peer.DEEPLABV3),
        ("DeepLabV3", {"encoder_output_stride": 16, "decoder_atrous_rates": [2, 3, 5]}, peer.DEEPLABV3),
        ("DeepLabV3Plus", {"encoder_output_stride": 8, "decoder_aspp_separable": False}, peer.DEEPLABV3PLUS),
        ("DeepLabV3Plus", {}, peer.DEEPLABV3PLUS),
        ("PSPNet", {"encoder_depth": 5, "upsampling": 32, "in_channels": 4}, peer.PSPNET),
        ("PSPNet", {"encoder_depth": 5, "upsampling": 32, "decoder_use_norm": {"type": "batchnorm", "eps": 0.01}},
         peer.PSPNET),
    ],
    ids=range(6),
)  # fmt: skip
def test_smp(network: str, arguments: dict[str, Any], rules: Rules, tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    theirs = getattr(smp, network)("resnet18", encoder_weights=None, classes=3, **arguments)
    theirs.save_pretrained(tmp_path)
    found = read_source_config({}, (), tmp_path / "model.safetensors")
    assert found is not None
    assert (found.project, found.refused, found.notes) == ("smp", None, ())
    report = weights_tools.inspect(tmp_path / "model.safetensors")
    assert report.model is not None
    assert found.expects.keys() >= {"head", "backbone", "stem", "num_classes", "head_channels", "backbone_stages"}
    assert find_contradiction(found, ModelConfig(report.model, report.options)) == ""
    required: dict[str, Any] = {"align_corners": True}
    if network.startswith("DeepLab"):
        required["first_block_dilation"] = "same"
    if network != "DeepLabV3":
        required["head_variant"] = "smp"
    required |= found.options
    ours = segnets.create_model(f"{network.lower()}_resnet18", num_classes=3, **required)
    assert layers(ours) == layers(theirs, rules)


@needs("timm")
def test_every_resnet_of_timm_that_looks_like_one_of_ours(tmp_path: Path) -> None:
    import timm
    from timm.models._hub import save_config_for_hf

    alike: set[str] = set()
    refused: set[str] = set()
    for name in timm.list_models(module="resnet"):
        if re.search(r"resne.*(152|200|269|270|350|420)", name):
            continue  # the same blocks, but deeper
        with torch.device("meta"):
            theirs = timm.create_model(name)
        refs = {
            key: TensorRef(StorageRef("0", "float32", 0), "float32", 0, tuple(tensor.shape), ())
            for key, tensor in theirs.state_dict().items()
        }
        match = TorchvisionLayout().match(Evidence(refs))
        if not isinstance(match, Match):
            continue
        save_config_for_hf(theirs, str(tmp_path / "config.json"))
        found = read_source_config({}, (), tmp_path / "model.safetensors")
        assert found is not None
        assert found.preprocessing
        assert found.preprocessing["mean"] == theirs.pretrained_cfg["mean"]
        assert find_contradiction(found, match.config) == "", name
        same = layers(build_described(match.config.name, dict(match.config.options))) == layers(theirs)
        assert same == (found.refused is None), name
        (alike if same else refused).add(name)
    assert {"resnet50", "resnext50_32x4d", "wide_resnet50_2"} <= alike
    assert {"resnetblur50", "resnetaa50"} <= refused


@needs("timm")
def test_mobilenet_of_timm(tmp_path: Path) -> None:
    import timm
    from timm.models._hub import save_for_hf

    for name in ("mobilenetv3_large_100", "mobilenetv3_small_100", "tf_mobilenetv3_large_100"):
        theirs = timm.create_model(name, num_classes=2)
        save_for_hf(theirs, str(tmp_path), model_config={"label_names": ["a", "b"]}, safe_serialization=True)
        found = read_source_config({}, (), tmp_path / "model.safetensors")
        assert found is not None
        assert found.classes == ("a", "b")
        assert find_contradiction(found, ModelConfig(f"mobilenet_v3_{name.split('_')[-2]}", {"num_classes": 2})) == ""
        eps = {layer.eps for layer in theirs.modules() if isinstance(layer, nn.BatchNorm2d)}
        if name.startswith("tf_"):
            assert "TensorFlow" in (found.refused or "")
        else:
            assert eps == {found.options["norm_eps"]}


@needs("transformers")
@pytest.mark.parametrize("in_1x1", [False, True])
def test_transformers(in_1x1: bool, tmp_path: Path) -> None:
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    labels = {0: "a", 1: "b"}
    config = ResNetConfig(depths=[1, 1, 1, 1], id2label=labels, downsample_in_bottleneck=in_1x1)
    theirs: Any = ResNetForImageClassification(config)
    theirs.save_pretrained(tmp_path)
    ConvNextImageProcessor(image_mean=[0.25, 0.5, 0.75]).save_pretrained(tmp_path)
    found = read_source_config({}, (), tmp_path / "model.safetensors")
    assert found is not None
    strides = [theirs.resnet.encoder.stages[1].layers[0].layer[i].convolution.stride[0] for i in (0, 1)]
    assert strides == ([2, 1] if found.options["stride_in_1x1"] else [1, 2])
    assert found.classes == ("a", "b")
    assert found.preprocessing
    assert found.preprocessing["mean"] == (0.25, 0.5, 0.75)
    assert found.refused is None
    assert find_contradiction(found, ModelConfig("resnet50", {"num_classes": 2})).startswith(
        "backbone=a ResNet of bottlenec"
    )
    config = ResNetConfig(id2label=labels)  # default values are not written
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    report = weights_tools.inspect(tmp_path / "model.safetensors")
    found = read_source_config({}, (), tmp_path / "model.safetensors")
    assert report.model is not None
    assert found is not None
    assert found.expects == {"backbone": "resnet50", "num_classes": 2}
    assert find_contradiction(found, ModelConfig(report.model, report.options)) == ""
