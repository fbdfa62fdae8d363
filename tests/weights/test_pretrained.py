"""`weights=` and `weights_backbone=` of the builders: files, state dicts, and published names in torch.hub's cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import segnets
from segnets import backbones, catalog
from segnets.catalog import CATALOG, VOC_CLASSES, Published
from segnets.weights import sources
from tests.oracle import randomise_, torchvision
from tests.typed import card_of, options_of

NAME = "deeplabv3_mobilenet_v3_large"


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """Return a stand-in for the published network, with 21 classes and an auxiliary classifier."""
    model: nn.Module = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, aux_loss=True
    )
    randomise_(model)
    return model.eval()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty torch.hub cache."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def publish(model: nn.Module, hub: Path, monkeypatch: pytest.MonkeyPatch, *, known: bool = False) -> Published:
    """Put a file into the cache under a name with its hash, and replace the catalog by a row for it."""
    torch.save(model.state_dict(), hub / "tmp")
    digest = hashlib.sha256((hub / "tmp").read_bytes()).hexdigest()
    row = next(row for row in CATALOG if row.model == NAME)
    row = replace(row, file=f"deeplabv3_mobilenet_v3_large-{digest[:8]}.pth", sha256=digest if known else None)
    (hub / "tmp").rename(hub / row.file)
    monkeypatch.setattr(catalog, "CATALOG", (row,))
    return row


def same(ours: nn.Module, theirs: nn.Module, *, but: tuple[str, ...] = ()) -> bool:
    expected = theirs.state_dict()
    return all(
        torch.equal(tensor, expected[key])
        for key, tensor in ours.state_dict().items()
        if not key.startswith(but or "!")
    )


@pytest.mark.parametrize(
    "weights",
    ["COCO_WITH_VOC_LABELS_V1", "DEFAULT", "DeepLabV3_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1",
     torchvision.models.segmentation.DeepLabV3_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1],
)  # fmt: skip
def test_a_published_name_is_found_in_the_cache(
    trained: nn.Module, hub: Path, monkeypatch: pytest.MonkeyPatch, weights: Any
) -> None:
    publish(trained, hub, monkeypatch)
    model = segnets.deeplabv3_mobilenet_v3_large(weights=weights)
    assert same(model, trained)
    assert (options_of(model)["num_classes"], options_of(model)["aux_loss"]) == (21, True), "as torchvision"
    assert card_of(model).classes == VOC_CLASSES
    without = segnets.deeplabv3_mobilenet_v3_large(weights=weights, aux_loss=False)
    assert without.aux_classifier is None
    assert same(without, trained)


def test_published_weights_with_another_geometry_give_a_warning(
    trained: nn.Module, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(trained, hub, monkeypatch)
    with pytest.warns(UserWarning, match=r"was made for output_stride=16 \(here 8\): the same tensors"):
        segnets.deeplabv3_mobilenet_v3_large(weights="DEFAULT", output_stride=8)


def test_a_published_name_that_is_not_in_the_cache(hub: Path) -> None:
    with pytest.raises(segnets.WeightsError) as caught:
        segnets.fcn_resnet50(weights="COCO_WITH_VOC_LABELS_V1")
    for part in ("fcn_resnet50_coco-1167a1af.pth", str(hub), "https://download.pytorch.org/models/", "weights="):
        assert part in str(caught.value)
    assert list(hub.iterdir()) == [], "nothing was downloaded"


@pytest.mark.parametrize("known", [False, True])
def test_a_damaged_file_in_the_cache(
    trained: nn.Module, hub: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    row = publish(trained, hub, monkeypatch, known=known)
    content = bytearray((hub / row.file).read_bytes())
    content[len(content) // 2] ^= 1
    (hub / row.file).write_bytes(content)
    with pytest.raises(segnets.WeightsError, match=r"is not the published file: its sha256 begins with .* fetch"):
        segnets.deeplabv3_mobilenet_v3_large(weights="DEFAULT")


def test_the_whole_known_hash_is_compared(trained: nn.Module, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = publish(trained, hub, monkeypatch, known=True)
    assert row.sha256 is not None
    sources.check_hash(hub / row.file, row)
    forged = replace(row, sha256=row.sha256[:8] + "0" * 56)
    with pytest.raises(segnets.WeightsError, match="is not the published file"):
        sources.check_hash(hub / row.file, forged)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_plain_pth_file(trained: nn.Module, tmp_path: Path, legacy: bool) -> None:
    torch.save(trained.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert same(segnets.create_model(NAME, weights=tmp_path / "w.pth"), trained)
    assert same(segnets.create_model(NAME, weights=str(tmp_path / "w.pth")), trained)


def test_a_state_dict(trained: nn.Module) -> None:
    assert same(segnets.create_model(NAME, weights=trained.state_dict()), trained)


def test_a_weights_file_sets_the_card(trained: nn.Module, tmp_path: Path) -> None:
    source = segnets.create_model(NAME, weights=trained.state_dict(), num_classes=21)
    segnets.save(source, tmp_path / "w.safetensors", classes=VOC_CLASSES)
    model = segnets.create_model(NAME, weights=tmp_path / "w.safetensors")
    assert same(model, trained)
    assert card_of(model).classes == VOC_CLASSES
    with pytest.raises(segnets.WeightsError, match=rf"the weights are for {NAME}, not for fcn_resnet50\. Call that"):
        segnets.fcn_resnet50(weights=tmp_path / "w.safetensors")


def test_another_number_of_classes_than_the_weights(trained: nn.Module) -> None:
    with pytest.warns(UserWarning, match="21 classes, but the model 5") as caught:
        model = segnets.create_model(NAME, weights=trained.state_dict(), num_classes=5)
    assert [warning.filename for warning in caught] == [__file__]
    assert same(model, trained, but=("classifier.4", "aux_classifier.4"))
    assert model.card is None


@pytest.mark.parametrize("content", [b"\x80", b"\x80\x02.", b"PK\x03\x04 and so on", b"P", b"\x80\x02}q\x00."])
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(segnets.WeightsError, match=r"w\.pth: .*weights-tools"):
        segnets.create_model(NAME, weights=tmp_path / "w.pth")


def test_a_flipped_bit(trained: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(trained.state_dict(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(segnets.WeightsError, match=r"is damaged: .* does not match its checksum"):
        segnets.create_model(NAME, weights=path)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(segnets.WeightsError, match="is not a regular file"):
        segnets.create_model(NAME, weights=tmp_path / "pipe")


def test_a_file_with_more_than_weights(trained: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "run.pth"
    torch.save({"model": trained.state_dict(), "epoch": 3}, path)
    with pytest.raises(
        segnets.WeightsError, match=r"not a plain state dict, it also holds model, epoch.*weights-tools"
    ):
        segnets.create_model(NAME, weights=path)
    torch.save(trained, path)  # A pickled module is refused without executing it and without advice to do so.
    with pytest.raises(
        segnets.WeightsError, match="not a plain state dict; describe it with `weights-tools inspect"
    ) as c:
        segnets.create_model(NAME, weights=path)
    assert "weights_only" not in str(c.value)
    nothing: tuple[Any, ...] = ({}, [], 3)
    for empty in nothing:
        torch.save(empty, path)
        with pytest.raises(segnets.WeightsError, match="no tensors found in it"):
            segnets.create_model(NAME, weights=path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("COCO_V2", "COCO_V2: no such file; published for deeplabv3_mobilenet_v3_large: COCO_WITH_VOC_LABELS_V1"),
        ("FCN_ResNet50_Weights.DEFAULT", "no such file; published for deeplabv3_mobilenet_v3_large"),
        (torchvision.models.ResNet50_Weights.IMAGENET1K_V1, "is not published for deeplabv3_mobilenet_v3_large"),
        ("", "weights='': expected a file's path"),
        (True, "weights of type bool: expected a file's path, a state dict or a published name"),
    ],
)  # fmt: skip
def test_invalid_weights(weights: Any, message: str) -> None:
    with pytest.raises(segnets.WeightsError, match=message):
        segnets.create_model(NAME, weights=weights)


@pytest.mark.parametrize(
    ("name", "make"),
    [("fcn_resnet18", backbones.resnet18), ("lraspp_mobilenet_v3_large", backbones.mobilenet_v3_large)],
)
def test_weights_for_the_backbone_alone(name: str, make: Callable[[], nn.Module], tmp_path: Path) -> None:
    classifier = make()
    randomise_(classifier)
    torch.save(classifier.state_dict(), tmp_path / "b.pth")
    segnets.save(classifier, tmp_path / "b.safetensors")
    for source in (classifier.state_dict(), tmp_path / "b.pth", tmp_path / "b.safetensors"):
        model = segnets.create_model(name, weights_backbone=source)
        body = getattr(classifier, "features", classifier)
        assert same(model.backbone, body)
    with pytest.raises(segnets.WeightsError, match="for the backbone"):
        segnets.deeplabv3_resnet101(weights_backbone=tmp_path / "b.pth")


def test_weights_take_precedence_over_backbone_weights(trained: nn.Module) -> None:
    model = segnets.create_model(NAME, weights=trained.state_dict(), weights_backbone="/no/such/file")
    assert same(model, trained)
