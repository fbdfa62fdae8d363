"""Options that the tensors don't show: in the file, changed in the model, and for other image channels."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import segnets
from segnets import backbones
from segnets.registry import HEADS, MODELS
from segnets.weights.geometry import describe, essential_options, merge_options
from tests.oracle import randomised
from tests.tiers import full_but
from tests.typed import card_of, config_of, options_of, part


def network(name: str, **options: Any) -> segnets.SegmentationModel:
    model = randomised(segnets.create_model, name, num_classes=4, **options)
    return model.eval()


def image(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 33, 49, generator=torch.Generator().manual_seed(0))


def same_output(one: nn.Module, other: nn.Module, channels: int = 3) -> bool:
    with torch.inference_mode():
        return torch.equal(one.eval()(image(channels))["out"], other.eval()(image(channels))["out"])


STRANGE = ("pspnet_resnet18", {"backbone_stages": 3, "head_variant": "smp", "align_corners": True, "stem": "deep"})


def test_a_builder_takes_the_options_of_the_file(tmp_path: Path) -> None:
    name, options = STRANGE
    model = network(name, **options)
    segnets.save(model, tmp_path / "w.safetensors")
    loaded = segnets.create_model(name, weights=tmp_path / "w.safetensors")
    assert loaded.config == model.config == segnets.load(tmp_path / "w.safetensors").config
    assert same_output(loaded, model)


def test_a_given_option_wins_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = network("deeplabv3_resnet18", output_stride=16, aux_loss=True, backbone_stages=3)
    segnets.save(model, path)
    warning = r"was made for output_stride=16 \(here 8\), atrous_rates=\[6, 12, 18\] \(here \[12, 24, 36\]\): the same"
    with pytest.warns(UserWarning, match=warning):
        other = segnets.create_model("deeplabv3_resnet18", weights=path, output_stride=8, head_dropout=0.0)
    # Options that depend on the output stride follow the new one instead of the file.
    assert options_of(other)["atrous_rates"] == [12, 24, 36]
    assert not same_output(other, model)
    again = segnets.create_model("deeplabv3_resnet18", num_classes=4, aux_loss=True, backbone_stages=3)
    with pytest.warns(UserWarning, match=r"made for output_stride=16 \(here 8\), atrous_rates="):
        segnets.load_weights(again, path)
    with pytest.warns(UserWarning, match=r"made for norm_eps=1e-05 \(here 0\.001\)"):
        segnets.create_model("deeplabv3_resnet18", weights=path, norm_eps=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # these compute the same function, and only train differently
        for norm in ("sync", "frozen"):
            same = segnets.create_model("deeplabv3_resnet18", weights=path, norm_layer=norm, head_dropout=0.2)
            torch.testing.assert_close(same.eval()(image())["out"], model(image())["out"], rtol=1e-4, atol=1e-4)


def test_a_file_without_options_has_those_of_torchvision(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = network("deeplabv3_mobilenet_v3_large")
    segnets.save(model, path)
    with_options(path, {"num_classes": 4, "aux_loss": False})
    for loaded in (segnets.load(path), segnets.deeplabv3_mobilenet_v3_large(weights=path)):
        assert loaded.config == model.config
        assert same_output(loaded, model)


def test_options_that_no_builder_has_are_refused_in_one_line(tmp_path: Path) -> None:
    model = network("fcn_resnet18", backbone_stages=2)
    wrong: dict[str, Any] = {"output_stride": 5, "atrous_rates": [1], "colour": "red", "multi_grid": "abc"}
    for option, value in wrong.items():
        model.config = segnets.ModelConfig("fcn_resnet18", {"num_classes": 4, option: value})
        message = f"described fcn_resnet18 can't be built: .*{option}"
        with pytest.raises(segnets.WeightsError, match=message) as error:
            segnets.save(model, tmp_path / "w.safetensors")
        assert "\n" not in str(error.value)
        with pytest.raises(segnets.WeightsError, match=message):
            essential_options(config_of(model))


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "pspnet_resnet34", "lraspp_mobilenet_v3_small"])
def test_essential_options_resolve_to_the_same_network(name: str) -> None:
    choices: list[dict[str, Any]] = [{}, {"num_classes": 3}, {"output_stride": 32}, {"norm_layer": "group"}]
    choices.append({"norm_layer": "frozen", "head_norm_layer": "frozen", "output_stride": 8})
    for chosen in choices:
        builder = MODELS[name]
        settled = builder.resolve(chosen)
        essential = essential_options(segnets.ModelConfig(name, settled))
        assert builder.resolve(essential) == settled
        own = {key for key in chosen if chosen[key] != builder.resolve({})[key]}
        assert own == essential.keys(), "only the chosen options"
    config = segnets.ModelConfig(name, builder.resolve({"output_stride": 32, "aux_loss": None}))
    assert describe(config) == f"{name}(num_classes=21, aux_loss=False, output_stride=32)"


def test_a_backbone_with_another_geometry_gives_a_warning(tmp_path: Path) -> None:
    classifier = backbones.resnet50(num_classes=3, stride_in_1x1=True)
    segnets.save(classifier, tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match=r"made for stride_in_1x1=True \(here False\)"):
        segnets.create_model("fcn_resnet50", weights_backbone=tmp_path / "w.safetensors", backbone_stages=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = segnets.create_model(
            "fcn_resnet50", weights_backbone=tmp_path / "w.safetensors", stride_in_1x1=True, backbone_stages=2
        )
    first = "layer2.0.conv1.weight"
    assert torch.equal(part(model.backbone, first), part(classifier, first))
    with pytest.raises(segnets.WeightsError, match=r"conv1\.weight.*"):
        segnets.create_model(
            "fcn_resnet50", weights_backbone=tmp_path / "w.safetensors", stem="deep", backbone_stages=2
        )


@pytest.mark.parametrize(
    ("stem", "channels"),
    full_but(
        [("plain", 1), ("deep", 1), ("plain", 4), ("deep", 7)],
        [(stem, channels) for stem in ("plain", "deep") for channels in (1, 2, 4, 5, 7)],
    ),
)
def test_rgb_weights_adapt_to_other_numbers_of_channels(
    stem: Literal["plain", "deep"], channels: int, tmp_path: Path
) -> None:
    rgb = network("fcn_resnet18", stem=stem, backbone_stages=2)
    segnets.save(rgb, tmp_path / "w.safetensors")
    model = segnets.create_model("fcn_resnet18", weights=tmp_path / "w.safetensors", in_channels=channels)
    assert options_of(model)["in_channels"] == channels
    # For one channel and multiples of three, a gray image gives the same output as its RGB copy.
    if channels == 1:
        gray = image(1)
        torch.testing.assert_close(model.eval()(gray)["out"], rgb(gray.repeat(1, 3, 1, 1))["out"], rtol=1e-4, atol=1e-3)
    first = "backbone.conv1.0.weight" if stem == "deep" else "backbone.conv1.weight"
    ours, theirs = model.state_dict()[first], rgb.state_dict()[first]
    for i in range(channels):
        expected = theirs.sum(1) if channels == 1 else theirs[:, i % 3] * (3 / channels)
        torch.testing.assert_close(ours[:, i], expected)
    again = segnets.create_model("fcn_resnet18", num_classes=4, in_channels=channels, stem=stem, backbone_stages=2)
    report = segnets.load_weights(again, tmp_path / "w.safetensors")
    assert report.adapted == (first,)
    assert f"adapted to the image's channels: {first}" in str(report)
    assert same_output(again, model, channels)


def test_an_rgb_backbone_adapts_to_other_numbers_of_channels() -> None:
    classifier = backbones.mobilenet_v3_small(num_classes=3)
    model = segnets.create_model("lraspp_mobilenet_v3_small", weights_backbone=classifier.state_dict(), in_channels=6)
    own = model.state_dict()["backbone.0.0.weight"]
    assert torch.equal(own, classifier.state_dict()["features.0.0.weight"].repeat(1, 2, 1, 1) / 2)


def test_other_numbers_of_channels_are_not_adapted() -> None:
    four = network("fcn_resnet18", in_channels=4, backbone_stages=2)
    with pytest.raises(
        segnets.WeightsError, match=r"backbone\.conv1\.weight: file \(64, 4, 7, 7\), model \(64, 3, 7, 7\)"
    ):
        segnets.create_model("fcn_resnet18", weights=four.state_dict(), in_channels=3, backbone_stages=2)
    inferred = segnets.create_model("fcn_resnet18", weights=four.state_dict(), backbone_stages=2)
    assert options_of(inferred)["in_channels"] == 4


def test_frozen_and_plain_batch_norms_load_each_others_weights(tmp_path: Path) -> None:
    plain = network("deeplabv3_resnet18", backbone_stages=2)
    frozen = segnets.create_model(
        "deeplabv3_resnet18", num_classes=4, norm_layer="frozen", head_norm_layer="frozen", backbone_stages=2
    )
    report = segnets.load_weights(frozen, plain.state_dict())
    counters = [name for name in plain.state_dict() if name.endswith("num_batches_tracked")]
    assert sorted(report.ignored) == sorted(counters)
    frozen.load_state_dict(plain.state_dict(), strict=True)
    back = segnets.create_model("deeplabv3_resnet18", num_classes=4, backbone_stages=2)
    report = segnets.load_weights(back, frozen.state_dict())
    assert sorted(report.zeroed) == sorted(counters)
    assert same_output(back, plain)
    assert not list(part(frozen.backbone, "bn1").parameters())
    segnets.save(frozen, tmp_path / "w.safetensors")
    assert same_output(segnets.load(tmp_path / "w.safetensors"), frozen)


@pytest.mark.parametrize(("head", "variant"), [(head.name, variant) for head in HEADS for variant in head.variants])
def test_the_number_of_classes_of_every_head_is_found_and_can_change(head: str, variant: str) -> None:
    name = f"{head}_resnet18"
    # Without a norm, the pooling branch has a bias too, although it is no classifier.
    options: dict[str, Any] = {"pool_norm": False} if "pool_norm" in MODELS[name].resolve({}) else {}
    if "head_channels" in MODELS[name].applicable({}):
        options["head_channels"] = 16
    if MODELS[name].head.others is None:  # others may need all stages
        options["backbone_stages"] = 3
    model = network(name, head_variant=variant, **options)
    state = dict(sorted(model.state_dict().items(), reverse=True))
    same = segnets.create_model(name, weights=state, head_variant=variant, **options)
    assert options_of(same)["num_classes"] == 4
    assert same_output(same, model)
    with pytest.warns(UserWarning, match="has 4 classes, but the model 7: .* are newly initialised"):
        other = segnets.create_model(name, weights=state, head_variant=variant, num_classes=7, **options)
    kept = [key for key, tensor in other.state_dict().items() if torch.equal(tensor, state[key])]
    fresh = state.keys() - kept
    assert fresh == {
        f"classifier.{layer}.{leaf}" for layer in part(model, "classifier.last_layers") for leaf in ("weight", "bias")
    }


def with_options(path: Path, options: dict[str, Any]) -> None:
    """Change only the options in the file's description of its network."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    described = json.loads(header["__metadata__"]["segnets"])
    described["model"]["options"] = options
    header["__metadata__"]["segnets"] = json.dumps(described)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


DAMAGED: list[dict[str, Any]] = [{"bogus": 1}, {"num_classes": "x"}, {"num_classes": 10**30}, {"output_stride": 8.5}]


@pytest.mark.parametrize("options", [*DAMAGED, {"head_channels": 1 << 19}, {"num_classes": 5}], ids=str)
def test_damaged_options_give_a_one_line_error_and_change_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = network("fcn_resnet18", backbone_stages=2)
    segnets.save(model, path)
    with_options(path, {"backbone_stages": 2, **options})
    with pytest.raises(segnets.WeightsError, match=r"w\.safetensors: ") as error:
        segnets.create_model("fcn_resnet18", weights=path)
    assert "\n" not in str(error.value)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if options in DAMAGED:
        with pytest.raises(segnets.WeightsError, match=r"w\.safetensors: "):
            segnets.load_weights(model, path)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_warning_raised_as_an_error_leaves_a_loaded_model(tmp_path: Path) -> None:
    segnets.save(
        network("fcn_resnet18", norm_eps=1e-3, backbone_stages=2),
        tmp_path / "w.safetensors",
        classes=["a", "b", "c", "d"],
    )
    model = segnets.create_model("fcn_resnet18", num_classes=4, backbone_stages=2)
    with pytest.raises(UserWarning, match=r"norm_eps=0\.001"):  # pytest turns warnings into errors here
        segnets.load_weights(model, tmp_path / "w.safetensors")
    assert card_of(model).classes == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("of_file", "given", "settled"),
    [
        ({"first_block_dilation": "same"}, {"output_stride": 32}, {"output_stride": 32}),
        ({"multi_grid": (4, 8)}, {"backbone_stages": 3}, {"backbone_stages": 3, "output_stride": 8}),
        ({"backbone_stages": 3, "norm_eps": 1e-3}, {"output_stride": 32}, {"output_stride": 32, "norm_eps": 1e-3}),
    ],
    ids=str,
)
def test_given_options_override_those_of_the_file(
    of_file: dict[str, Any], given: dict[str, Any], settled: dict[str, Any], tmp_path: Path
) -> None:
    config = segnets.ModelConfig("fcn_resnet18", MODELS["fcn_resnet18"].resolve(of_file))
    chosen = merge_options(config, given, "the file")
    assert settled.items() <= MODELS["fcn_resnet18"].resolve(chosen).items()


def test_caller_mistakes_are_not_blamed_on_the_weights() -> None:
    state = network("lraspp_resnet18").state_dict()
    bogus: Any = "bogus"
    with pytest.raises(ValueError, match="stem='bogus': expected"):
        segnets.create_model("lraspp_resnet18", weights=state, stem=bogus)
    with pytest.raises(NotImplementedError, match="lraspp_resnet18 has no auxiliary classifier"):
        segnets.create_model("lraspp_resnet18", weights=state, aux_loss=True)
    with pytest.raises(segnets.WeightsError, match="DEFAULT: no such file; published for lraspp_resnet18: nothing"):
        segnets.create_model("lraspp_resnet18", weights="DEFAULT")


@pytest.mark.parametrize("stages", [2, 3])
def test_fewer_stages_take_the_weights_of_a_whole_backbone(stages: Literal[2, 3]) -> None:
    classifier = backbones.resnet18(num_classes=3)
    model = segnets.create_model("pspnet_resnet18", backbone_stages=stages, weights_backbone=classifier.state_dict())
    assert torch.equal(part(model.backbone, "layer2.1.conv2.weight"), part(classifier, "layer2.1.conv2.weight"))


def test_classifiers_with_another_geometry_give_a_warning(tmp_path: Path) -> None:
    segnets.save(backbones.resnet50(num_classes=2), tmp_path / "r.safetensors")
    other = backbones.resnet50(num_classes=2, stride_in_1x1=True, norm_eps=1e-3)
    with pytest.warns(UserWarning, match=r"stride_in_1x1=False \(here True\), norm_eps=1e-05 \(here 0\.001\)"):
        segnets.load_weights(other, tmp_path / "r.safetensors")
    segnets.save(backbones.mobilenet_v3_small(num_classes=2), tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match=r"norm_eps=0\.001 \(here 1e-05\)"):
        segnets.create_model("fcn_mobilenet_v3_small", norm_eps=1e-5, weights_backbone=tmp_path / "m.safetensors")


def test_a_classifier_with_a_norm_function_is_not_saved(tmp_path: Path) -> None:
    model = backbones.mobilenet_v3_small(norm_layer=lambda channels: nn.BatchNorm2d(channels, eps=0.1))
    with pytest.raises(segnets.WeightsError, match="has no config, so a file could not"):
        segnets.save(model, tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("theirs", "ours", "hint"),
    [
        ({"stem": "deep"}, {}, 'stem="deep"'),
        ({}, {"stem": "deep"}, 'stem="plain"'),
        ({"in_channels": 4}, {"in_channels": 3}, "in_channels=4"),
        ({"norm_layer": "group"}, {}, 'norm_layer="group"'),
    ],
    ids=str,
)
def test_a_mismatch_hints_at_the_option(theirs: dict[str, Any], ours: dict[str, Any], hint: str) -> None:
    with pytest.raises(segnets.WeightsError, match=f"the weights look like {hint}"):
        segnets.create_model(
            "fcn_resnet18",
            weights=network("fcn_resnet18", backbone_stages=2, **theirs).state_dict(),
            backbone_stages=2,
            **ours,
        )
