"""Starting points: weights files, published names, checkpoints of torchvision's script, classes by name."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segnets
from segnets.card import Decoding
from segnets.errors import SegnetsError, TrainingError, WeightsError
from segnets.training import TrainingConfig
from segnets.training.checkpoints import KIND
from segnets.training.starting import build_network, describe_network, rebuild_network
from segnets.weights.actual import last_layers
from tests.training.runs import toys

__all__ = ["toys"]

CLASSES = ("sky", "road", "car")
PREPROCESSING = segnets.Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def _config(**options: Any) -> TrainingConfig:
    return TrainingConfig(**{"model": "fcn_toy", "recipe": "light", **options})


def _built(config: TrainingConfig, classes: tuple[str, ...] = CLASSES, **options: Any) -> tuple[Any, list[str]]:
    told: list[str] = []
    return build_network(config, classes, tell=told.append, **options), told


def _rows(model: Any) -> list[Tensor]:
    state = model.state_dict()
    return [state[f"{layer}.weight"] for layer in last_layers(model)]


def _without_rows(model: Any) -> dict[str, Tensor]:
    layers = tuple(f"{layer}." for layer in last_layers(model))
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(layers)}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Any, Path]:
    """Return a network of three named classes, and its file."""
    torch.manual_seed(7)
    model = segnets.create_model("fcn_toy", num_classes=3, output_stride=8)
    segnets.save(model, tmp_path / "w.safetensors", classes=CLASSES, preprocessing=PREPROCESSING)
    return model, tmp_path / "w.safetensors"


def test_the_same_seed_gives_the_same_network() -> None:
    torch.manual_seed(1)
    one, told = _built(_config(seed=4))
    torch.manual_seed(2)
    two, _ = _built(_config(seed=4))
    assert _equal(one.state_dict(), two.state_dict())
    assert not _equal(one.state_dict(), _built(_config(seed=5))[0].state_dict())
    assert told == ["starting from random weights; to start from trained ones, pass --weights or --weights-backbone"]
    assert one.training


def test_equal_classes_are_kept(trained: tuple[Any, Path]) -> None:
    model, path = trained
    built, told = _built(_config(weights=str(path), resize="none"))
    assert _equal(built.state_dict(), model.state_dict())
    assert told == [f"{path}: its classes are the data's, and are kept"]
    assert built.config.options["output_stride"] == 8
    assert built.card.preprocessing == replace(PREPROCESSING, resize="none", size=None)
    scaled, _ = _built(_config(weights=str(path), resize="x2"))
    assert scaled.card.preprocessing == replace(PREPROCESSING, resize="scale", size=2.0)


def test_classes_are_taken_by_name(trained: tuple[Any, Path]) -> None:
    """In another order, with a new class, and without one of the old ones."""
    model, path = trained
    built, told = _built(_config(weights=str(path)), ("car", "tree", "sky"))
    fresh, _ = _built(_config(), ("car", "tree", "sky"))
    for rows, old, new in zip(_rows(built), _rows(model), _rows(fresh), strict=True):
        assert torch.equal(rows[0], old[2])
        assert torch.equal(rows[1], new[1])
        assert torch.equal(rows[2], old[0])
    assert _equal(_without_rows(built), _without_rows(model))
    assert told == [f"{path}: 2 of 3 classes are kept by name; newly initialised: tree; not in the data: road"]


def test_more_classes_than_before(trained: tuple[Any, Path]) -> None:
    model, path = trained
    built, _ = _built(_config(weights=str(path)), (*CLASSES, "tree"))
    for rows, old in zip(_rows(built), _rows(model), strict=True):
        assert torch.equal(rows[:3], old)
    assert built.config.options["num_classes"] == 4
    assert built.config.options["output_stride"] == 8


def test_a_file_without_names(trained: tuple[Any, Path], tmp_path: Path) -> None:
    model, _ = trained
    path = tmp_path / "plain.pth"
    torch.save(model.state_dict(), path)
    built, told = _built(_config(weights=str(path), output_stride=8))
    assert _equal(built.state_dict(), model.state_dict())
    assert told == [f"{path}: has no class names, so its classes are assumed to be the data's"]
    other, told = _built(_config(weights=str(path), output_stride=8), ("a", "b"))
    assert _equal(_without_rows(other), _without_rows(model))
    assert len(told) == 1
    assert "newly initialised" in told[0]


def test_a_checkpoint_of_torchvisions_script(trained: tuple[Any, Path], tmp_path: Path) -> None:
    """It stores its arguments as a Namespace, next to the state of optimizer and schedule."""
    model, _ = trained
    path = tmp_path / "model_29.pth"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    arguments = argparse.Namespace(data_path="coco", lr=0.02, device="cuda", amp=False)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 29, "args": arguments}, path)
    built, _ = _built(_config(weights=str(path), output_stride=8))
    assert _equal(built.state_dict(), model.state_dict())


def test_our_own_checkpoint_is_for_resuming(tmp_path: Path) -> None:
    torch.save({"kind": KIND, "training": {}}, tmp_path / "last.ckpt")
    with pytest.raises(TrainingError, match="is a checkpoint for --resume"):
        _built(_config(weights=str(tmp_path / "last.ckpt")))


def test_a_backbone(trained: tuple[Any, Path], tmp_path: Path) -> None:
    classifier: Any = segnets.backbones.mobilenet_v3_small()
    torch.save(classifier.state_dict(), tmp_path / "backbone.pth")
    built, told = _built(_config(model="lraspp_mobilenet_v3_small", weights_backbone=str(tmp_path / "backbone.pth")))
    assert torch.equal(built.backbone["0"][0].weight, classifier.features[0][0].weight)
    assert told == []


def test_bands_are_adapted(trained: tuple[Any, Path]) -> None:
    built, _ = _built(_config(weights=str(trained[1])), channels=5)
    assert built.card.preprocessing.channels == 5
    assert built.config.options["in_channels"] == 5


def test_options_reach_the_network() -> None:
    config = _config(aux_loss=True, norm_eval=True, gradient_checkpointing=True, freeze_backbone=True, output_stride=8)
    model, _ = _built(config)
    assert model.aux_classifier is not None
    assert (model.norm_eval, model.gradient_checkpointing, model.backbone_frozen) == (True, True, True)
    again = rebuild_network(config, describe_network(model), CLASSES)
    assert again.config == model.config
    assert again.card == model.card
    assert (again.norm_eval, again.gradient_checkpointing, again.backbone_frozen) == (True, True, True)


def test_one_class_with_a_threshold() -> None:
    model, _ = _built(_config(decoding="threshold"), ("background", "kelp"))
    assert model.config.options["num_classes"] == 1
    assert model.card.decoding == Decoding("threshold")
    for classes, advice in ((CLASSES, "remove the option"), (("kelp",), "add the background")):
        with pytest.raises(TrainingError, match=f"needs two classes, .*; {advice}"):
            _built(_config(decoding="threshold"), classes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "fcn_toi"}, TrainingError, "no model 'fcn_toi'"),
        ({"model": "lraspp_toy", "aux_loss": True}, SegnetsError, "has no auxiliary classifier"),
        ({"weights": "missing.safetensors"}, WeightsError, "missing.safetensors: no such file"),
        ({"weights": "a", "weights_backbone": "b"}, TrainingError, "but weights already includes a backbone"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _built(_config(**options))


def test_other_channels_are_told(trained: tuple[Any, Path]) -> None:
    _, told = _built(_config(weights=str(trained[1])), channels=5)
    assert "the starting weights are for 3 channels; the first convolution was adapted to 5" in told


def test_a_sigmoid_becomes_two_classes_with_a_warning(tmp_path: Path) -> None:
    model, _ = _built(_config(decoding="threshold"), ("background", "kelp"))
    segnets.save(model.eval(), tmp_path / "one.safetensors")
    _, told = _built(_config(weights=str(tmp_path / "one.safetensors")), ("background", "kelp"))
    assert any("newly initialised" in message for message in told)
    assert not any("are kept" in message for message in told)


def test_the_class_of_a_sigmoid_is_taken_by_name(tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    torch.manual_seed(7)
    model = segnets.create_model("fcn_toy", num_classes=1)
    segnets.save(
        model, file, classes=("background", "kelp"), preprocessing=PREPROCESSING, decoding=Decoding("threshold")
    )
    config = _config(decoding="threshold", weights=str(file))
    same, told = _built(config, ("water", "kelp"))
    assert torch.equal(_rows(same)[0], _rows(model)[0])
    assert told == [f"{file}: 1 of 1 classes are kept by name"]
    for classes in (("background", "sand"), ("kelp", "background")):
        other, told = _built(config, classes)
        assert not torch.equal(_rows(other)[0], _rows(model)[0])
        assert told == [
            f"{file}: 0 of 1 classes are kept by name; newly initialised: {classes[1]}; not in the data: kelp"
        ]
    _, told = _built(_config(weights=str(file)), ("background", "kelp", "sand"))
    assert any("newly initialised" in message for message in told)
    assert not any("kept" in message for message in told)


def test_classes_of_a_wider_head_are_taken_by_name(tmp_path: Path) -> None:
    file = tmp_path / "wide.safetensors"
    model = segnets.create_model("fcn_toy", num_classes=3, head_channels=40)
    segnets.save(model, file, classes=CLASSES, preprocessing=PREPROCESSING)
    other, _ = _built(_config(weights=str(file)), ("car", "tree"))
    assert other.config.options["head_channels"] == 40
    assert torch.equal(_rows(other)[0][0], _rows(model)[0][2])
