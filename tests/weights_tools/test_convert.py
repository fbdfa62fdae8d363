"""`convert`: reproducible files, provenance, class names, published files, and refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segnets
from segnets.catalog import VOC_CLASSES, Published
from segnets.errors import OutputError, WeightsError
from segnets.weights import read_weights_file
from tests.tiers import full_but
from tests.weights_tools.files import Bomb, assert_same, network, saved
from weights_tools import ConversionReport, convert, inspect
from weights_tools import _provenance as provenance

State = Mapping[str, Tensor]


def _convert(tmp_path: Path, content: object) -> ConversionReport:
    if content is not None:
        torch.save(content, tmp_path / "source.pth")
    return convert(tmp_path / "source.pth", tmp_path / "out.safetensors")


def _model(tmp_path: Path) -> Any:
    return segnets.load(tmp_path / "out.safetensors")


def _prefixed(state: State) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def test_twice_gives_the_same_bytes(tmp_path: Path, state: State) -> None:
    (tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path, tmp_path / "elsewhere"):
        torch.save(dict(state), folder / "source.pth")
        convert(folder / "source.pth", folder / "out.safetensors")
    first, second = (folder / "out.safetensors" for folder in (tmp_path, tmp_path / "elsewhere"))
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()


def test_provenance_records_the_conversion(tmp_path: Path, state: State) -> None:
    report = _convert(tmp_path, {"model": _prefixed(state)})
    provenance = _model(tmp_path).card.provenance
    assert provenance["source_sha256"] == report.source_sha256
    assert provenance["source_file"] == "source.pth"
    assert (provenance["layout"], provenance["key"], provenance["stripped"]) == ("torchvision", "model", "module.")
    assert provenance["geometry"]["align_corners"] is False
    assert provenance["geometry"]["batch_norm_eps"] == 1e-3


def _provenance(path: Path) -> Mapping[str, Any]:
    card = read_weights_file(path).card
    assert card is not None
    return card.provenance


def test_provenance_records_changed_values(tmp_path: Path, state: State) -> None:
    renamed = "renamed only; every tensor byte-equal to the source's"
    _convert(tmp_path, dict(state))
    assert _model(tmp_path).card.provenance["proof"]["tensors"] == renamed
    convert(tmp_path / "out.safetensors", tmp_path / "half.safetensors", dtype="float16")
    provenance = _provenance(tmp_path / "half.safetensors")
    assert "proof" not in provenance
    assert provenance["cast_to"] == "float16"
    convert(tmp_path / "source.pth", tmp_path / "half.safetensors", dtype="float16", overwrite=True)
    cast = _provenance(tmp_path / "half.safetensors")
    assert cast["proof"]["tensors"] == "cast to float16"
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "source.pth")
    convert(tmp_path / "source.pth", tmp_path / "out.safetensors", overwrite=True)
    assert (
        _model(tmp_path).card.provenance["proof"]["tensors"]
        == f"{renamed}, except: 47 absent batch norm counters set to 0"
    )


@pytest.mark.parametrize(
    "name",
    full_but(["lraspp_mobilenet_v3_large", "resnet18"], ["lraspp_mobilenet_v3_large", "fcn_resnet50", "resnet18"]),
)
def test_options_equal_those_that_segnets_saves(tmp_path: Path, name: str) -> None:
    _convert(tmp_path, network(name, num_classes=3).state_dict())
    converted = read_weights_file(tmp_path / "out.safetensors").config
    segnets.save(_model(tmp_path), tmp_path / "saved.safetensors")
    assert read_weights_file(tmp_path / "saved.safetensors").config == converted


def _resnet18_inside(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**{f"backbone.{name}": tensor for name, tensor in network("resnet18").state_dict().items()}, **state}


def test_network_inside_a_larger_one_is_refused(tmp_path: Path) -> None:
    decoder = {f"decoder.{i}.weight": torch.ones(4, 4, 3, 3) for i in range(20)}
    with pytest.raises(
        WeightsError,
        match=r"the checkpoint holds a resnet18 under 'backbone\.', and other weights that would be lost: "
        r"'decoder\.0\.weight', .* and 17 more\. Choose that network with --key backbone",
    ):
        _convert(tmp_path, _resnet18_inside(decoder))
    assert inspect(tmp_path / "source.pth").refused is not None
    assert not (tmp_path / "out.safetensors").exists()
    small = {"loss.weight": torch.ones(7), "iou.confmat": torch.zeros(7, 7, dtype=torch.int64)}
    report = _convert(tmp_path, _resnet18_inside(small))
    assert (report.model, report.dropped) == ("resnet18", ("loss.weight", "iou.confmat"))


def test_report_is_json_and_a_table(tmp_path: Path, state: State) -> None:
    report = _convert(tmp_path, _prefixed(state))
    assert json.loads(json.dumps(report.to_json()))["stripped"] == ["module."]
    assert "lraspp_mobilenet_v3_large(num_classes=21, aux_loss=False)" in str(report)
    assert "module. removed" in str(report)


def test_classes(tmp_path: Path, state: State) -> None:
    torch.save(dict(state), tmp_path / "source.pth")
    names = tmp_path / "names.txt"
    names.write_text("\ufeff" + "\n".join(VOC_CLASSES) + "\n")
    convert(tmp_path / "source.pth", tmp_path / "out.safetensors", classes=names)
    assert _model(tmp_path).card.classes == VOC_CLASSES
    with pytest.raises(WeightsError, match="the network has 21 classes, but 2 class names were given"):
        convert(tmp_path / "source.pth", tmp_path / "other.safetensors", classes=["a", "b"])
    names.write_text("a\n\nb\n")
    with pytest.raises(WeightsError, match=r"names\.txt: class name 2 is blank"):
        convert(tmp_path / "source.pth", tmp_path / "other.safetensors", classes=names)
    names.write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsError, match=r"names\.txt: the file is not UTF-8 text"):
        convert(tmp_path / "source.pth", tmp_path / "other.safetensors", classes=names)
    assert not (tmp_path / "other.safetensors").exists()


def test_published_file_is_recognised_by_its_hash(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(dict(state), tmp_path / "source.pth")
    digits = hashlib.sha256((tmp_path / "source.pth").read_bytes()).hexdigest()[:8]
    row = Published("lraspp_mobilenet_v3_large", "V1", f"lraspp-{digits}.pth", 1, "", {}, classes=VOC_CLASSES)
    monkeypatch.setattr(provenance, "CATALOG", (row,))
    report = _convert(tmp_path, None)
    assert report.classes == VOC_CLASSES
    known = "this is torchvision's lraspp_mobilenet_v3_large V1 (same "
    assert f"{known}the first 8 digits of its sha256)" in report.notes
    monkeypatch.setattr(provenance, "CATALOG", (replace(row, sha256=report.source_sha256),))
    whole = convert(tmp_path / "source.pth", tmp_path / "out.safetensors", overwrite=True)
    assert f"{known}sha256)" in whole.notes
    other = Published("lraspp_mobilenet_v3_large", "V1", "source.pth", 1, "", {}, sha256="0" * 64)
    monkeypatch.setattr(provenance, "CATALOG", (other,))
    with pytest.raises(WeightsError, match="the file has the name of a published file, but its sha256 begins with"):
        convert(tmp_path / "source.pth", tmp_path / "other.safetensors")


def test_attack_is_refused_by_name(tmp_path: Path, state: State) -> None:
    marker = tmp_path / "executed"
    with pytest.raises(
        WeightsError, match=r"the file names posix\.mkdir, which could run commands .* Nothing in it was run"
    ):
        _convert(tmp_path, {"model": state, "extra": Bomb(marker)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.pth"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), r"1 tensors hold NaN or infinite values: classifier\.low_classifier\.bias \(1 of 21\)"),
        (float("inf"), "hold NaN or infinite values"),
        (1e20, r"1 tensors hold values beyond 1e\+15"),
    ],
)
def test_values_of_no_trained_network(tmp_path: Path, state: State, value: float, message: str) -> None:
    name = "classifier.low_classifier.bias"
    bad = {**state, name: state[name].clone()}
    bad[name][3] = value
    with pytest.raises(WeightsError, match=message):
        _convert(tmp_path, bad)
    assert not (tmp_path / "out.safetensors").exists()
    report = convert(tmp_path / "source.pth", tmp_path / "out.safetensors", allow_nonfinite=True)
    assert report.doubts
    assert_same(dict(_model(tmp_path).state_dict()), bad)


@pytest.mark.parametrize(
    "make",
    [lambda t: t.to(torch.int8), lambda t: t.to(torch.complex64), lambda t: t.to(torch.bool)],
    ids=["int8", "complex", "bool"],
)
def test_dtypes_that_no_weights_have(tmp_path: Path, state: State, make: Callable[[Tensor], Tensor]) -> None:
    bad = {**state, "classifier.low_classifier.bias": make(state["classifier.low_classifier.bias"])}
    with pytest.raises(WeightsError, match=r"! classifier\.low_classifier\.bias: file \w+, model float32") as error:
        _convert(tmp_path, bad)
    assert "1 of a different dtype" in str(error.value)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda t: t.to_sparse(), "sparse"),
        (lambda t: t.to("meta"), "meta"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantized"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values(
    tmp_path: Path, state: State, make: Callable[[Tensor], Tensor], kind: str
) -> None:
    bad = {**state, "classifier.low_classifier.bias": make(state["classifier.low_classifier.bias"])}
    with pytest.raises(WeightsError, match=f"the tensor 'classifier.low_classifier.bias' is a {kind} tensor"):
        _convert(tmp_path, bad)


def test_source_is_target(tmp_path: Path, state: State) -> None:
    path = tmp_path / "source.safetensors"
    path.write_bytes(saved(dict(state)))
    before = path.read_bytes()
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    for target in (path, link, tmp_path / "." / "source.safetensors"):
        with pytest.raises(OutputError, match=r"is the source file\. Choose another name for the output"):
            convert(path, target, overwrite=True)
    assert path.read_bytes() == before
