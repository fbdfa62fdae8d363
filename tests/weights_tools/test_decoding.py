"""How logits become ids: read from the project's config, stated by the caller, recorded, reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import segnets
import weights_tools
from segnets import Decoding, ModelCard
from segnets.card import DECODING_RULES
from segnets.errors import WeightsError
from segnets.registry import build
from tests.weights_tools.mmseg_text import changed, of_mmseg
from weights_tools.cli import main
from weights_tools.commands import convert

HEAD = "        num_classes=2,\n        sampler"
ONE = {"_model_class": "DeepLabV3Plus", "encoder_name": "resnet18", "classes": 1}


@pytest.mark.parametrize(
    ("arguments", "decoding"),
    [
        ("num_classes=2, out_channels=1, threshold=0.4", Decoding("threshold", 0.4)),
        ("num_classes=2, out_channels=1", Decoding("threshold", 0.3)),  # mmsegmentation's default
        ("num_classes=2, out_channels=1, threshold=None", Decoding("threshold", 0.3)),
        ("num_classes=1", Decoding("threshold", 0.3)),
        ("num_classes=2, out_channels=1, threshold=1.5", None),
        ("num_classes=2, out_channels=1, threshold='x'", None),
        # It takes the largest of several channels, even if each was trained with a sigmoid.
        ("num_classes=2, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True), threshold=0.4", None),
    ],
)
def test_mmseg_configs_state_the_threshold(arguments: str, decoding: Decoding | None) -> None:
    found = of_mmseg(changed((HEAD, f"        {arguments},\n        sampler")))
    assert found.refused is None
    assert found.decoding == decoding
    if decoding is not None:
        assert found.notes[0].endswith(f"sigmoid of its one channel exceeds {decoding.threshold:g}")


def test_two_names_fit_one_channel_of_mmseg() -> None:
    text = changed((HEAD, "        num_classes=2, out_channels=1,\n        sampler"))
    names, colours = ("road", "crack"), ((0, 0, 0), (255, 0, 0))
    found = of_mmseg(text, dataset_meta={"classes": names, "palette": [list(colour) for colour in colours]})
    assert (found.classes, found.palette) == (names, colours)
    found = of_mmseg(text, dataset_meta={"classes": ("crack",)})
    assert found.classes == ()
    assert found.notes[-1] == "ignored 1 class name: the logits have 1 channel, so the ids are 0 and 1"


def smp_file(folder: Path, channels: int, **config: Any) -> Path:
    """Write weights in SMP's names next to its config.json."""
    model = build("deeplabv3plus_resnet18", {"num_classes": channels, "align_corners": True})
    segnets.save(model, folder / "w.safetensors")
    weights_tools.export(folder / "w.safetensors", folder / "smp.safetensors", project="smp")
    (folder / "config.json").write_text(json.dumps({**ONE, "classes": channels, **config}))
    return folder / "smp.safetensors"


@pytest.mark.parametrize(
    ("channels", "activation", "decoding"),
    [
        (1, "sigmoid", Decoding("threshold")),
        (3, "sigmoid", Decoding("multilabel")),
        (3, "softmax2d", None),
        (1, None, None),
    ],
)
def test_smps_activation_is_recorded(
    channels: int, activation: str | None, decoding: Decoding | None, tmp_path: Path
) -> None:
    source, out = smp_file(tmp_path, channels, activation=activation), tmp_path / "out.safetensors"
    report = weights_tools.convert(source, out)
    card = segnets.load(out).card
    assert isinstance(card, ModelCard)
    assert card.decoding == decoding
    assert report.decoding == (None if decoding is None else decoding.to_json())
    lines = [line.split(maxsplit=1) for line in str(report).splitlines()]
    rows = [line[1] for line in lines if line[0] == "decoding"]
    assumed = ["threshold 0.5, assumed: the source has none; pass --decoding and --threshold"]
    assert rows == (assumed if (channels, decoding) == (1, None) else [str(decoding)] if decoding else [])


def test_the_caller_states_the_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, names = smp_file(tmp_path, 1), tmp_path / "out.safetensors", tmp_path / "names.txt"
    names.write_text("road\ncrack\n")
    words = ["convert", str(source), str(out), "--decoding", "threshold", "--threshold", "0.4", "--classes", str(names)]
    assert main(words) == 0
    assert "threshold 0.4" in capsys.readouterr().out
    card = segnets.load(out).card
    assert isinstance(card, ModelCard)
    assert (card.decoding, card.classes) == (Decoding("threshold", 0.4), ("road", "crack"))
    # Converting the result again keeps it; a different number of classes does not.
    weights_tools.convert(out, tmp_path / "again.safetensors")
    assert segnets.load(tmp_path / "again.safetensors").card.decoding == card.decoding  # type: ignore[union-attr]
    weights_tools.convert(out, tmp_path / "five.safetensors", num_classes=5)
    assert segnets.load(tmp_path / "five.safetensors").card.decoding is None  # type: ignore[union-attr]


def test_contradictions_are_refused(tmp_path: Path) -> None:
    source, out = smp_file(tmp_path, 1), tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match="argmax gives 0 everywhere for a network of one channel"):
        weights_tools.convert(source, out, decoding=Decoding("argmax"))
    with pytest.raises(
        WeightsError, match=r"one channel, so its ids are 0 and 1, but 1 class name was given\. Pass two"
    ):
        weights_tools.convert(source, out, classes=["crack"])
    with pytest.raises(WeightsError, match="needs a network of one channel, but this one has 4"):
        weights_tools.convert(source, out, num_classes=4, decoding=Decoding("threshold"))
    weights_tools.convert(source, out, decoding=Decoding("multilabel"), classes=["crack"])
    assert segnets.load(out).card.classes == ("crack",)  # type: ignore[union-attr]
    with pytest.raises(WeightsError, match="use numbers"):
        weights_tools.convert(source, tmp_path / "x.safetensors", remap_classes={"crack": "crack"})


def test_the_command_offers_every_rule() -> None:
    assert convert.DECODING_RULES == DECODING_RULES
