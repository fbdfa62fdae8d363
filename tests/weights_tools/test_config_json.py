"""Read config.json of transformers, SMP and timm, and the hyperparameters of Lightning."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from segnets.card import JSON, ModelConfig
from segnets.options import check_values
from weights_tools.reader.values import Value
from weights_tools.recognise.config import SourceConfig, find_contradiction, read_source_config
from weights_tools.recognise.config._json_file import MAX_BYTES

HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "channel_order": "RGB"}


def read_config_json(folder: Path, config: Any, name: str = "model.safetensors") -> SourceConfig | None:
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    return read_source_config({}, (), folder / name)


RESNET = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"], "id2label": {"0": "a", "1": "b"}}


def test_transformers(tmp_path: Path) -> None:
    processor = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = read_config_json(tmp_path, {**RESNET, "downsample_in_bottleneck": True})
    assert found == SourceConfig(
        "config.json",
        "transformers",
        {"stride_in_1x1": True, "in_channels": 3},
        classes=("a", "b"),
        preprocessing=HALVES,
        expects={"backbone": "resnet50", "num_classes": 2},
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"downsample_in_first_stage": True}, "downsample_in_first_stage"), ({"hidden_act": "gelu"}, "'gelu'")],
)
def test_unsupported_networks_of_transformers(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    found = read_config_json(tmp_path, {**RESNET, **change})
    assert found is not None
    assert reason in (found.refused or "")


@pytest.mark.parametrize(
    "labels", [{"0": "LABEL_0", "1": "LABEL_1"}, {"0": "a", "2": "b"}, {"0": "a", "1": ["b"]}, {"0": ""}, 7, {}]
)
def test_invalid_labels(labels: Any, tmp_path: Path) -> None:
    found = read_config_json(tmp_path, {**RESNET, "id2label": labels})
    assert found is not None
    assert found.classes == ()


def test_labels_without_a_classifier(tmp_path: Path) -> None:
    found = read_config_json(tmp_path, {**RESNET, "architectures": ["ResNetModel"]})
    assert found is not None
    assert found.classes == ()


SMP = {"_model_class": "DeepLabV3", "encoder_name": "resnet18", "encoder_output_stride": 16, "upsampling": None}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"output_stride": 16, "atrous_rates": [12, 24, 36]}),
        ({"encoder_output_stride": 8, "decoder_atrous_rates": [6, 12]}, {"output_stride": 8, "atrous_rates": [6, 12]}),
        ({"encoder_depth": 3, "upsampling": 8}, {"output_stride": 8}),
        ({"_model_class": "DeepLabV3Plus", "upsampling": 4}, {"output_stride": 16, "aspp_separable": True}),
        (
            {"_model_class": "PSPNet", "encoder_depth": 4, "upsampling": 16},
            {"output_stride": 16, "head_norm_eps": 1e-5},
        ),
        (
            {"_model_class": "PSPNet", "decoder_use_norm": {"type": "batchnorm", "eps": 0.01}, "psp_dropout": 0.25},
            {"output_stride": 8, "head_norm_eps": 0.01, "head_dropout": 0.25},
        ),
        ({"in_channels": 4}, {"in_channels": 4}),
    ],
    ids=str,
)
def test_smp(change: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    found = read_config_json(tmp_path, {**SMP, **change})
    assert found is not None
    assert (found.project, found.refused, found.notes) == ("smp", None, ())
    assert expected.items() <= found.options.items()
    check_values(found.options)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_model_class": "Unet"}, "'Unet'"),
        ({"upsampling": 1}, "upsampling=1"),
        ({"_model_class": "PSPNet", "upsampling": 32}, "upsampling=32"),
        ({"_model_class": "PSPNet", "decoder_use_norm": "layernorm"}, "'layernorm'"),
        ({"_model_class": "PSPNet", "decoder_use_norm": False}, "decoder_use_norm"),
        ({"_model_class": "PSPNet", "psp_use_batchnorm": "inplace"}, "'inplace'"),
    ],
    ids=str,
)
def test_smp_networks_that_segnets_does_not_support(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    found = read_config_json(tmp_path, {**SMP, **change})
    assert found is not None
    assert reason in (found.refused or "")


def test_an_activation_of_smp_is_named(tmp_path: Path) -> None:
    found = read_config_json(tmp_path, {**SMP, "activation": "softmax2d"})
    assert found is not None
    assert "'softmax2d'" in found.notes[0]


def test_hyper_parameters_of_lightning() -> None:
    arguments: dict[str, Value] = {"arch": "DeepLabV3", "encoder_name": "resnet18", "encoder_output_stride": 16}
    top = {"hyper_parameters": arguments, "state_dict": {}}
    found = read_source_config(top, ("state_dict",), Path("w.ckpt"))
    assert found is not None
    assert (found.project, found.options) == ("smp", {"output_stride": 16})
    del arguments["encoder_output_stride"]
    assert read_source_config(top, ("state_dict",), Path("w.ckpt")) is None


TIMM = {"architecture": "resnet50", "num_classes": 2, "model_args": {"num_classes": 2, "global_pool": "avg"}}


def test_timm(tmp_path: Path) -> None:
    own = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    facts: dict[str, JSON] = {"backbone": "resnet50", "stem": "plain", "num_classes": 2}
    for form in ({"pretrained_cfg": own, "label_names": ["a", "b"]}, {**own, "label_names": {"0": "a", "1": "b"}}):
        found = read_config_json(tmp_path, {**TIMM, **form})
        assert found == SourceConfig("config.json", "timm", {}, ("a", "b"), preprocessing=HALVES, expects=facts)
    found = read_config_json(tmp_path, {**TIMM, "architecture": "mobilenetv3_large_100.ra_in1k"})
    assert found is not None
    assert found.options == {"norm_eps": 1e-5}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architecture": "tf_mobilenetv3_large_100"}, "TensorFlow"),
        ({"architecture": "resnetblur50.bt_in1k"}, "blurs"),
        ({"architecture": "seresnextaa101d_32x8d"}, "blurs"),
        ({"model_args": {"output_stride": 8}}, "'output_stride'"),
        ({"model_args": {"aa_layer": "avg"}}, "'aa_layer'"),
    ],
    ids=str,
)
def test_unsupported_networks_of_timm(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    found = read_config_json(tmp_path, {**TIMM, **change})
    assert found is not None
    assert reason in (found.refused or "")


# As DeepLabV3Plus("resnet18", classes=7) of SMP is recognised.
PLUS = ModelConfig("deeplabv3plus_resnet18", {"num_classes": 7, "head_variant": "smp", "output_stride": 16})
OF_PLUS = {
    **SMP,
    "_model_class": "DeepLabV3Plus",
    "classes": 7,
    "in_channels": 3,
    "encoder_depth": 5,
    "decoder_channels": 256,
    "decoder_aspp_separable": True,
}


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, ""),
        ({"encoder_name": "tu-resnet18"}, ""),
        ({"encoder_name": "resnest14"}, ""),  # an encoder that segnets does not have
        ({"classes": "seven", "decoder_channels": None}, ""),
        ({"_model_class": "DeepLabV3"}, "head=deeplabv3 (the tensors: deeplabv3plus)"),
        ({"_model_class": "PSPNet", "encoder_depth": 4}, "head=pspnet (the tensors: deeplabv3plus), backbone_stages=3"),
        ({"encoder_name": "resnet34"}, "backbone=resnet34 (the tensors: resnet18)"),
        ({"encoder_name": "tu-resnet18d.ra2_in1k"}, "stem=deep (the tensors: plain)"),
        ({"classes": 3}, "num_classes=3 (the tensors: 7)"),
        ({"in_channels": 4}, "in_channels=4 (the tensors: 3)"),
        ({"decoder_channels": 128}, "head_channels=128 (the tensors: 256)"),
        ({"decoder_aspp_separable": False}, "aspp_separable=False (the tensors: True)"),
    ],
    ids=str,
)
def test_config_json_of_another_network_of_smp(change: dict[str, Any], differs: str, tmp_path: Path) -> None:
    """The config itself is valid, so only a contradiction keeps its output stride from being used."""
    found = read_config_json(tmp_path, {**OF_PLUS, **change})
    assert found is not None
    assert found.refused is None
    assert find_contradiction(found, PLUS).startswith(differs)
    assert bool(find_contradiction(found, PLUS)) == bool(differs)


@pytest.mark.parametrize(
    ("config", "differs"),
    [
        (TIMM, ""),
        ({**TIMM, "num_classes": 3}, "num_classes=3 (the tensors: 2)"),
        ({**TIMM, "architecture": "resnet50d"}, "stem=deep (the tensors: plain)"),
        ({**TIMM, "architecture": "wide_resnet50_2.x"}, "backbone=wide_resnet50_2 (the tensors: resnet50)"),
        ({**TIMM, "architecture": "mobilenetv3_small_100"}, "backbone=mobilenet_v3_small (the tensors: resnet50)"),
        ({**TIMM, "architecture": "gluon_resnet50_v1b"}, ""),
        (RESNET, ""),
        ({**RESNET, "depths": [3, 4, 23, 3]}, "backbone=resnet101 (the tensors: resnet50)"),
        ({**RESNET, "layer_type": "basic"}, "backbone=resnet34 (the tensors: resnet50)"),
        ({**RESNET, "depths": [1, 1]}, "backbone=a ResNet of bottlenecks, [1, 1] (the tensors: resnet50)"),
        ({**RESNET, "id2label": {"0": "a"}}, "num_classes=1 (the tensors: 2)"),
        ({**RESNET, "id2label": {"0": "a"}, "architectures": ["ResNetModel"]}, ""),
    ],
    ids=str,
)
def test_config_json_of_another_classifier(config: dict[str, Any], differs: str, tmp_path: Path) -> None:
    found = read_config_json(tmp_path, config)
    assert found is not None
    assert find_contradiction(found, ModelConfig("resnet50", {"num_classes": 2})) == differs
    # The classes belong to the head that a backbone alone has lost.
    alone = find_contradiction(found, ModelConfig("resnet50", {"num_classes": 0}))
    assert alone == ("" if differs.startswith("num_classes") else differs)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"text"',
        "NaN",
        '{"model_type": "resnet", "num_channels": NaN}',
        '{"model_type": "vit", "model_type": "resnet"}',
        '{"model_type": "segformer"}',
        '{"model_type": ["resnet"]}',
        "{}",
        "[" * 1_000_000,
        '{"a":' * 100_000,
        '{"a": ' + "9" * 100_000 + "}",
        " " * (MAX_BYTES + 1),
    ],
    ids=range(14),
)
def test_unusable_config_json(text: str, tmp_path: Path) -> None:
    found = read_config_json(tmp_path, text)
    assert found is not None
    assert (found.project, found.options, found.refused) == (None, {}, None)
    assert "ignored config.json: " in found.notes[0]
    assert len(found.notes[0]) < 200


@pytest.mark.parametrize("base", [RESNET, SMP, TIMM], ids=["transformers", "smp", "timm"])
@pytest.mark.parametrize("value", [None, 7, -1, 1e300, 10**400, "x" * 100_000, [[[]]], {"a": {}}, True], ids=range(9))
def test_values_of_any_kind_in_config_json(base: dict[str, Any], value: Any, tmp_path: Path) -> None:
    names = (
        "architectures downsample_in_bottleneck layer_type num_channels id2label encoder_output_stride encoder_depth "
        "decoder_atrous_rates decoder_use_norm upsampling activation in_channels model_args pretrained_cfg mean std "
        "label_names num_classes _model_class"
    )
    for name in names.split():
        found = read_config_json(tmp_path, {**base, "_model_class": "PSPNet", name: value})
        assert found is not None
        check_values(found.options)
        assert all(len(text) < 400 for text in (*found.notes, found.refused or ""))


def test_config_json_is_read_only_for_formats_that_come_with_it(tmp_path: Path) -> None:
    assert read_config_json(tmp_path, SMP, "pytorch_model.bin") is not None
    assert read_config_json(tmp_path, SMP, "checkpoint.pth") is None
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")  # reading the pipe would block forever
    assert read_source_config({}, (), tmp_path / "model.safetensors") is None
