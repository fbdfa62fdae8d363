"""How images are prepared: what the source states, what its project does, and what is assumed, in every report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import segnets
import weights_tools
from segnets import Preprocessing, cli
from segnets.card import ModelCard
from segnets.catalog import CATALOG
from segnets.deploy import read_contract
from segnets.errors import WeightsError
from segnets.weights import read_weights_file
from weights_tools.cli import main

SMP = {"first_block_dilation": "same", "basic_block_dilation": "both", "align_corners": True, "head_variant": "smp"}
UNRESIZED = Preprocessing(resize="none")
ALL = ["resize", "mean", "std"]


@pytest.fixture(scope="module")
def smp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with SMP's names."""
    folder = tmp_path_factory.mktemp("smp")
    model = segnets.create_model("pspnet_resnet18", num_classes=3, head_variant="smp", align_corners=True, **_PSPNET)
    segnets.save(model, folder / "own.safetensors", preprocessing=UNRESIZED)
    weights_tools.export(folder / "own.safetensors", folder / "model.safetensors", project="smp")
    return folder / "model.safetensors"


_PSPNET: dict[str, Any] = {"output_stride": 16, "backbone_stages": 3, "pool_norm": False}


def card_of(path: Path) -> ModelCard:
    card = read_weights_file(path).card
    assert card is not None
    return card


def test_smp_resizes_nothing_and_the_report_says_what_is_assumed(smp: Path, tmp_path: Path) -> None:
    report = weights_tools.convert(smp, tmp_path / "w.safetensors")
    card = card_of(tmp_path / "w.safetensors")
    assert (report.layout, card.preprocessing, card.provenance["assumed"]) == ("smp", UNRESIZED, ALL)
    assert "images     not resized, mean 0.485,0.456,0.406, std 0.229,0.224,0.225, RGB\n" in str(report)
    assert "assumed    not resized (--resize), mean 0.485,0.456,0.406 (--mean), std " in str(report)
    assert report.to_json()["preprocessing"] == json.loads(json.dumps(UNRESIZED.to_json()))


def test_inspect_shows_what_convert_records(smp: Path, tmp_path: Path) -> None:
    for quick in (False, True):
        report = weights_tools.inspect(smp, data=not quick)
        assert "images     not resized, mean 0.485,0.456,0.406, std 0.229,0.224,0.225, RGB\n" in str(report)
        assert "assumed    not resized (--resize), mean 0.485,0.456,0.406 (--mean), std " in str(report)
    state = {f"model.{name}": tensor for name, tensor in load_file(smp).items()}
    buffers = {"mean": torch.full((1, 3, 1, 1), 127.5), "std": torch.full((1, 3, 1, 1), 51.0)}
    torch.save({**state, **buffers}, tmp_path / "w.pth")
    report = weights_tools.inspect(tmp_path / "w.pth", data=False)
    assert "images     not resized, mean 0.5,0.5,0.5, std 0.2,0.2,0.2, RGB\n" in str(report)
    assert report.assumed == "not resized (--resize): the source does not record what the network was trained with"


def test_inspect_goes_by_the_name_of_a_published_file_only_if_quick(tmp_path: Path) -> None:
    path = tmp_path / next(row.file for row in CATALOG if row.model == "lraspp_mobilenet_v3_large")
    torch.save(segnets.lraspp_mobilenet_v3_large().state_dict(), path)
    quick = weights_tools.inspect(path, data=False)
    assert (quick.refused, quick.assumed, quick.preprocessing) == (None, "", Preprocessing().to_json())
    with pytest.raises(WeightsError, match="has the name of a published file") as raised:
        weights_tools.convert(path, tmp_path / "w.safetensors")
    assert str(raised.value) == f"{path}: {weights_tools.inspect(path).refused}"


def test_a_pretrained_encoder_states_mean_and_std(smp: Path, tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    source.write_bytes(smp.read_bytes())
    config = {"_model_class": "PSPNet", "encoder_name": "resnet18", "encoder_depth": 4, "encoder_weights": "imagenet"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "upsampling": 16}))
    weights_tools.convert(source, tmp_path / "w.safetensors")
    assert card_of(tmp_path / "w.safetensors").provenance["assumed"] == ["resize"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "upsampling": 16, "encoder_weights": None}))
    weights_tools.convert(source, tmp_path / "v.safetensors")
    assert card_of(tmp_path / "v.safetensors").provenance["assumed"] == ALL


def test_torchvision_resizes_the_short_side(tmp_path: Path) -> None:
    torch.save(segnets.lraspp_mobilenet_v3_large(num_classes=2).state_dict(), tmp_path / "w.pth")
    report = weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    card = card_of(tmp_path / "w.safetensors")
    assert (card.preprocessing, card.provenance["assumed"]) == (Preprocessing(), ALL)
    assert report.geometry["first_block_of_a_dilated_stage"] == "has the dilation of its stage"


def test_options_state_what_would_be_assumed(smp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "w.safetensors"
    command = ["convert", str(smp), str(target), "--force"]
    assert main([*command, "--resize", "480x640", "--mean", "0.5,0.5,0.5"]) == 0
    card = card_of(target)
    assert card.preprocessing == Preprocessing(resize="fixed", size=(480, 640), mean=(0.5, 0.5, 0.5))
    assert card.provenance["assumed"] == ["std"]
    assert main([*command, "--resize", "none", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"]) == 0
    assert "assumed" not in card_of(target).provenance
    assert "assumed " not in capsys.readouterr().out.splitlines()[-1]
    assert main([*command, "--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375"]) == 1
    assert "Divided by 255: mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)" in capsys.readouterr().err
    for option, value, reason in [
        ("--resize", "9000x", "'9000x': expected 520 (the short side), 480x640 (height x width), x2 (twice"),
        ("--mean", "0.5;0.5", "'0.5;0.5': expected one number per channel, for example 0.485,0.456,0.406"),
    ]:
        with pytest.raises(SystemExit):
            main([*command, option, value])
        assert reason in capsys.readouterr().err
    with pytest.raises(WeightsError, match="preprocessing: got an unexpected keyword argument 'colour'"):
        weights_tools.convert(smp, target, preprocessing={"colour": "RGB"}, overwrite=True)


def test_an_assumption_stays_until_somebody_states_the_value(smp: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    weights_tools.convert(smp, first)
    segnets.save(segnets.load(first), second)
    assert card_of(second).provenance["assumed"] == ALL
    segnets.save(segnets.load(first), second, provenance={"by": "hand"})
    assert card_of(second).provenance == {"assumed": ALL, "by": "hand"}
    segnets.save(segnets.load(first), second, preprocessing=Preprocessing(size=256))
    assert "assumed" not in card_of(second).provenance
    weights_tools.convert(first, second, drop_aux=True, num_classes=7, overwrite=True)
    assert card_of(second).provenance["assumed"] == ALL


def test_the_preprocessing_of_other_channels_is_refused_or_noted(smp: Path, tmp_path: Path) -> None:
    """Three means are assumed for a network of four channels: that is said, and stating them is an error."""
    state = load_file(smp)
    first = next(name for name, tensor in state.items() if tensor.shape == (64, 3, 7, 7))
    state[first] = torch.cat([state[first], torch.zeros(64, 1, 7, 7)], dim=1)
    save_file(state, tmp_path / "four.safetensors")
    what = "preprocessing: its mean has 3 numbers, but the model takes images with 4 channels. Pass "
    assert any(note.startswith(what) for note in weights_tools.inspect(tmp_path / "four.safetensors").notes)
    with pytest.raises(WeightsError, match=what):
        weights_tools.convert(
            tmp_path / "four.safetensors", tmp_path / "w.safetensors", preprocessing={"mean": (0.5, 0.5, 0.5)}
        )
    report = weights_tools.convert(tmp_path / "four.safetensors", tmp_path / "w.safetensors")
    assert any(note.startswith(what) for note in report.notes)
    model, again = segnets.load(tmp_path / "w.safetensors"), tmp_path / "again.safetensors"
    with pytest.raises(WeightsError, match=rf"not written\. {what}"):
        segnets.save(model, again, preprocessing=UNRESIZED)
    assert not again.exists()
    with pytest.warns(UserWarning, match=what):
        segnets.save(model, again)
    segnets.save(model, again, preprocessing=Preprocessing(mean=(0.5,) * 4, std=(0.2,) * 4))
    assert card_of(again).preprocessing.channels == 4


def test_a_classifier_assumes_nothing(tmp_path: Path) -> None:
    torch.save(segnets.backbones.resnet18(num_classes=3).state_dict(), tmp_path / "w.pth")
    report = weights_tools.convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert (report.assumed, report.preprocessing) == ("", {})
    assert "assumed" not in card_of(tmp_path / "w.safetensors").provenance
    assert "images " not in str(report)


def test_saving_without_preprocessing_warns_once_and_is_recorded(tmp_path: Path) -> None:
    model = segnets.create_model("lraspp_resnet18", num_classes=2)
    path = tmp_path / "w.safetensors"
    with pytest.warns(
        UserWarning, match=r"w\.safetensors: no preprocessing was given, .* short side resized to 520"
    ) as got:
        segnets.save(model, path)
    assert len(got) == 1
    assert Path(got[0].filename) == Path(__file__)
    assert card_of(path).provenance == {"assumed": ALL}


def test_an_export_states_what_is_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = segnets.create_model("fcn_resnet18", num_classes=2, backbone_stages=2)
    weights, target = tmp_path / "w.safetensors", tmp_path / "m.ts"
    segnets.save(model, weights)
    command = ["export", str(weights), str(target), "--force", "--target", "portable"]
    assert cli.main([*command, "--resize", "64"]) == 0
    said = capsys.readouterr().out
    assert "assumed: mean 0.485,0.456,0.406 (--mean), std 0.229,0.224,0.225 (--std): the source does not record" in said
    assert cli.main(["info", str(target)]) == 0
    assert "assumed                 mean 0.485,0.456,0.406 (--mean), std" in capsys.readouterr().out
    report = segnets.export(model, target, preprocessing=Preprocessing(size=64), target="portable")
    assert report.notes == ()
    assert cli.main([*command, "--resize", "64", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]) == 0
    assert "assumed" not in capsys.readouterr().out
    contract = read_contract(target)
    assert contract.card.preprocessing == Preprocessing(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert cli.main([*command, "--mean", "123,116,104"]) == 1
    assert "Divided by 255: mean=(0.482353, 0.454902, 0.407843), std=(0.229, 0.224, 0.225)" in capsys.readouterr().err
    assert cli.main([*command, "--resize", "9000x"]) == 1
    assert capsys.readouterr().err == (
        "segnets: --resize 9000x: expected 520 (the short side), 480x640 (height x width), x2 (twice the image's size) "
        "or none\n"
    )
    assert cli.main([*command, "--resize", "x1.5"]) == 0
    assert "scaled by 1.5" not in capsys.readouterr().out  # it is stated, so nothing is assumed
    assert read_contract(target).card.preprocessing == Preprocessing(resize="scale", size=1.5)
