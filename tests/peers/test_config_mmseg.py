"""Configs in mmsegmentation's checkpoints, compared with the networks that mmsegmentation builds from them.

The networks are compared layer by layer: kernels, strides, padding, dilation and eps. The configs are published ones,
and small ones with a few changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import segnets
import weights_tools
from segnets.preprocessing import Preprocess, Preprocessing
from segnets.weights import read_weights_file
from tests.peers import test_mmseg
from tests.peers.compare import LIMITS, needs, randomised
from tests.peers.layers import layers
from weights_tools.check.peers._mmseg_import import mmseg_models, silence_advice
from weights_tools.reader import Source, read_container
from weights_tools.recognise.config import SourceConfig, find_contradiction, read_source_config
from weights_tools.recognise.layouts.tables import MMSEG

pytestmark = needs("mmsegmentation")

HEADS = {"FCNHead": "fcn", "ASPPHead": "deeplabv3", "PSPHead": "pspnet"}


def published(path: str) -> Any:
    """Load a config that mmsegmentation publishes."""
    mmseg_models()
    import mmseg
    from mmengine.config import Config

    return Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / path, format_python_code=False)


def built(config: Mapping[str, Any]) -> Any:
    mmseg_models()
    from mmseg.registry import MODELS

    with silence_advice():
        # Initial weights and preprocessing are not compared here.
        return MODELS.build({k: v for k, v in config.items() if k not in ("pretrained", "data_preprocessor")})


def source_config_of(text: str) -> SourceConfig:
    top = {"meta": {"mmseg_version": "1.2.2", "cfg": text}, "state_dict": {"auxiliary_head.conv_seg.weight": 0}}
    found = read_source_config(top, ("state_dict",), Path("w.pth"))
    assert found is not None
    return found


def ours_of(model: Mapping[str, Any], found: SourceConfig) -> nn.Module:
    head, backbone = model["decode_head"], model["backbone"]
    shown: dict[str, Any] = {"num_classes": head["num_classes"], "aux_loss": True, "head_channels": head["channels"]}
    shown["stem"] = "plain" if backbone["type"] == "ResNet" else "deep"
    shown["downsample"] = "average" if backbone["type"] == "ResNetV1d" else "conv"
    shown |= found.options
    return segnets.create_model(
        f"{HEADS[head['type']]}_resnet{backbone['depth']}",
        head_variant="mmseg",
        **shown,
    )


def check_mmseg(model: Mapping[str, Any], found: SourceConfig) -> None:
    assert (found.project, found.refused) == ("mmseg", None)
    rules = {**test_mmseg.ENCODER, **test_mmseg.HEADS[model["decode_head"]["type"]], **test_mmseg.AUXILIARY}
    with torch.device("meta"):
        theirs, ours = built(model), ours_of(model, found)
    assert layers(ours) == layers(theirs, rules)
    assert found.options["align_corners"] == theirs.align_corners == theirs.auxiliary_head.align_corners
    assert found.options["head_dropout"] == theirs.decode_head.dropout_ratio


@pytest.mark.filterwarnings("ignore:``build_pixel_sampler`` would be deprecated:UserWarning")
@pytest.mark.parametrize(
    "path",
    [
        "fcn/fcn_r18-d8_4xb2-80k_cityscapes-769x769.py",
        "fcn/fcn_r101b-d8_4xb2-80k_cityscapes-512x1024.py",
        "deeplabv3/deeplabv3_r18b-d8_4xb2-80k_cityscapes-769x769.py",
        "deeplabv3/deeplabv3_r101-d16-mg124_4xb2-40k_cityscapes-512x1024.py",
        "deeplabv3/deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py",
        "pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-769x769.py",
        "pspnet/pspnet_r18-d8_4xb4-80k_loveda-512x512.py",
    ],
)
def test_published_configurations_of_mmseg(path: str) -> None:
    config = published(path)
    check_mmseg(config.model.to_dict(), source_config_of(config.pretty_text))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("fcn/fcn-d6_r50-d16_4xb2-40k_cityscapes-512x1024.py", "its decode_head has dilation=6"),
        # Its last stages have strides as well as dilations.
        ("pspnet/pspnet_r50-d32_4xb2-80k_cityscapes-512x1024.py", "its backbone has strides="),
        ("deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py", "its decode_head is 'DepthwiseSep"),
    ],
)
def test_published_configurations_that_segnets_does_not_support(path: str, reason: str) -> None:
    assert reason in (source_config_of(published(path).pretty_text).refused or "")


def a_model(head: str = "ASPPHead", depth: int = 50) -> dict[str, Any]:
    """Return a config of mmsegmentation that sets only values without a default."""
    channels = 2048 if depth >= 50 else 512
    norm = {"type": "BN"}
    common = {"num_classes": 3, "norm_cfg": norm}
    aux = {"type": "FCNHead", "in_channels": channels // 2, "in_index": 2, "channels": channels // 8, **common}
    return {
        "type": "EncoderDecoder",
        "backbone": {"type": "ResNetV1c", "depth": depth},
        "decode_head": {"type": head, "in_channels": channels, "channels": channels // 4, **common},
        "auxiliary_head": {**aux, "num_convs": 1, "concat_input": False},
    }


D8 = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}
D16 = {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)}


@pytest.mark.parametrize(
    ("depth", "backbone", "head"),
    [
        (50, {}, {}),
        (50, D8, {"dilations": (1, 2, 3, 5)}),
        (50, {**D16, "contract_dilation": True, "style": "caffe"}, {}),
        (50, {**D8, "multi_grid": (3, 2, 1)}, {}),
        (50, {**D16, "multi_grid": (1, 2, 4), "dilations": (1, 1, 1, 7), "style": "caffe"}, {}),
        (50, {"norm_cfg": {"type": "SyncBN", "eps": 1e-3}, "type": "ResNetV1d", **D8}, {"dropout_ratio": 0.25}),
        (18, {**D8, "style": "caffe"}, {}),
        (18, {**D16, "contract_dilation": True, "type": "ResNet"}, {}),
        (50, {"norm_cfg": {"type": "GN", "num_groups": 32, "eps": 1e-3}, "type": "ResNet"}, {}),
        (34, {"multi_grid": (1, 2, 4, 8), "norm_cfg": {"type": "BN", "eps": 1e-2}}, {}),
    ],
    ids=str,
)
def test_mmseg_with_its_defaults_and_others(depth: int, backbone: dict[str, Any], head: dict[str, Any]) -> None:
    from mmengine.config import Config

    model = a_model(depth=depth)
    model["backbone"].update(backbone)
    model["decode_head"].update(head)
    check_mmseg(model, source_config_of(Config({"model": model}).pretty_text))


def test_a_converted_checkpoint_computes_the_same_with_its_recorded_options(tmp_path: Path) -> None:
    from mmengine.config import Config

    model = a_model("FCNHead", depth=18)
    model["backbone"].update({**D16, "norm_cfg": {"type": "BN", "eps": 0.03}})
    for head in ("decode_head", "auxiliary_head"):
        model[head].update({"align_corners": True, "norm_cfg": {"type": "BN", "eps": 0.02}})
    theirs: Any = randomised(built(model), gain=0.6, within="backbone.").eval()
    meta = {"cfg": Config({"model": model}).pretty_text, "dataset_meta": {"classes": ("a", "b", "c")}}
    torch.save({"meta": meta, "state_dict": theirs.state_dict()}, tmp_path / "w.pth")
    with Source(tmp_path / "w.pth") as source:
        found = read_source_config(read_container(source).top, ("state_dict",), tmp_path / "w.pth")
    assert found is not None
    assert found.classes == ("a", "b", "c")
    # Only options that the tensors don't show are accepted.
    chosen = {name: value for name, value in found.options.items() if name in MMSEG[0].choices}
    weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", options=chosen)
    config = read_weights_file(tmp_path / "w.safetensors").config
    assert config is not None
    expected_facts = {"head": "fcn", "backbone": "resnet18", "stem": "deep", "num_classes": 3}
    assert expected_facts.items() <= found.expects.items()
    assert find_contradiction(found, config) == ""
    assert find_contradiction(replace(found, expects={"backbone": "resnet34"}), config) != ""
    x = torch.randn(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), silence_advice():
        expected = theirs.decode_head.predict(theirs.extract_feat(x), [{"img_shape": (65, 97)}], theirs.test_cfg)
        got = segnets.load(tmp_path / "w.safetensors")(x)["out"]
    assert (got - expected).abs().max() <= LIMITS[torch.float32]


@pytest.mark.parametrize("flags", [{"bgr_to_rgb": True}, {"rgb_to_bgr": True}, {}], ids=str)
def test_preprocessing_of_mmseg(flags: dict[str, bool]) -> None:
    from mmengine.config import Config

    images = {"type": "SegDataPreProcessor", "mean": [1.0, 20.0, 200.0], "std": [50.0, 60.0, 70.0], **flags}
    found = source_config_of(Config({"model": {**a_model(), "data_preprocessor": images}}).pretty_text)
    rgb = torch.randint(0, 256, (1, 4, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = built(images)({"inputs": [rgb[0].permute(2, 0, 1).flip(0)]})["inputs"]  # BGR, as cv2 reads images
    assert (Preprocess(Preprocessing(resize="none", **found.preprocessing))(rgb) - theirs).abs().max() < 1e-5
