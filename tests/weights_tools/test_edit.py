"""Requested changes of a conversion (heads, classes, dtype) and requested checks of its outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import segnets
from segnets.catalog import Published
from segnets.cli import main as info
from segnets.errors import WeightsError
from tests.tiers import full_but
from tests.weights_tools.files import assert_same, network, same_bytes
from weights_tools import _provenance as provenance
from weights_tools import convert
from weights_tools.cli import main

CLASSES = ("sky", "road", "car", "tree")
LAST = {
    "lraspp_mobilenet_v3_large": ("classifier.low_classifier", "classifier.high_classifier"),
    "deeplabv3_mobilenet_v3_large": ("classifier.4", "aux_classifier.4"),
    "resnet18": ("fc",),
    "mobilenet_v3_small": ("classifier.3",),
}
State = Mapping[str, Tensor]


def write_source(folder: Path, name: str = "lraspp_mobilenet_v3_large", **options: Any) -> State:
    """Write w.pth, a state dict of torchvision with four classes, and return it. Do not modify its tensors."""
    state = source_state(name, **options)
    torch.save(state, folder / "w.pth")
    return dict(state)


@lru_cache
def source_state(name: str, **options: Any) -> State:
    return dict(network(name, num_classes=len(CLASSES), **options).state_dict())


def converted(folder: Path, **options: Any) -> torch.nn.Module:
    convert(folder / "w.pth", folder / "w.safetensors", overwrite=True, **options)
    return segnets.load(folder / "w.safetensors")


@pytest.mark.parametrize("name", LAST)
def test_rows_are_carried_over_by_name(name: str, tmp_path: Path) -> None:
    before = write_source(tmp_path, name, **({"aux_loss": True} if name.startswith("deeplab") else {}))
    mapping = {"vehicle": "car", "sky": "sky", "lane": "road", "person": None, "by number": 3}
    model: Any = converted(tmp_path, classes=CLASSES, remap_classes=mapping)
    after = model.state_dict()
    rows = [2, 0, 1, None, 3]
    changed = {f"{layer}.{leaf}" for layer in LAST[name] for leaf in ("weight", "bias")} & before.keys()
    assert len(changed) >= len(LAST[name])
    for key in changed:
        for new, old in enumerate(rows):
            if old is not None:
                assert same_bytes(after[key][new], before[key][old]), key
        assert not any(torch.equal(after[key][3], row) for row in before[key]), "newly initialised"
        assert 0 < after[key][3].abs().max() < 1
    assert_same({k: v for k, v in after.items() if k not in changed}, {k: before[k] for k in before.keys() - changed})
    assert model.card.classes == tuple(mapping)
    assert model.config.options["num_classes"] == 5
    text = model.card.provenance["proof"]["tensors"]
    assert text.startswith("renamed only; every tensor byte-equal to the source's, except: last layers of 5 classes")
    assert "5 classes, 1 of them newly initialised" in text


def test_the_logits_of_kept_classes_are_the_same(tmp_path: Path) -> None:
    write_source(tmp_path)
    x = torch.randn(1, 3, 65, 64)
    with torch.inference_mode():
        before = converted(tmp_path)(x)["out"]
        after = converted(tmp_path, remap_classes={"a": 2, "b": 0})(x)["out"]
    # Another number of rows runs another kernel, which rounds differently.
    torch.testing.assert_close(after, before[:, [2, 0]], rtol=1e-5, atol=1e-3)


def test_new_last_layers_for_another_number_of_classes(tmp_path: Path) -> None:
    before = write_source(tmp_path, "deeplabv3_mobilenet_v3_large", aux_loss=True)
    model: Any = converted(tmp_path, num_classes=9)
    assert model(torch.zeros(1, 3, 32, 32))["aux"].shape == (1, 9, 32, 32)
    kept = {name: t for name, t in before.items() if not name.startswith(("classifier.4.", "aux_classifier.4."))}
    after = model.state_dict()
    assert_same({name: after[name] for name in kept}, kept)
    first = (tmp_path / "w.safetensors").read_bytes()
    converted(tmp_path, num_classes=9)
    assert (tmp_path / "w.safetensors").read_bytes() == first, "drawn from a fixed seed"
    assert_same(dict(converted(tmp_path, num_classes=4).state_dict()), before)


def test_the_auxiliary_head_can_be_dropped(tmp_path: Path) -> None:
    before = write_source(tmp_path, "deeplabv3_mobilenet_v3_large", aux_loss=True)
    model: Any = converted(tmp_path, drop_aux=True)
    assert_same(dict(model.state_dict()), {k: v for k, v in before.items() if not k.startswith("aux_")})
    assert model.config.options["aux_loss"] is False
    assert "auxiliary classifier dropped" in model.card.provenance["changed"]


@pytest.mark.parametrize("name", full_but(["lraspp_mobilenet_v3_large", "resnet18"], LAST))
def test_a_backbone_alone(name: str, tmp_path: Path) -> None:
    before = write_source(tmp_path, name)
    model: Any = converted(tmp_path, backbone_only=True)
    assert model.config.options["num_classes"] == 0
    backbone = model.config.name
    whole = segnets.create_model(f"fcn_{backbone}", weights_backbone=tmp_path / "w.safetensors")
    heads = ("fc.", "classifier.", "aux_classifier.")
    body = {k.removeprefix("backbone.").removeprefix("features."): v for k, v in before.items()}
    body = {k: v for k, v in body.items() if not k.startswith(heads)}
    assert_same(dict(whole.backbone.state_dict()), body)
    # The same from a segnets file, and from the backbone file itself.
    convert(tmp_path / "w.pth", tmp_path / "whole.safetensors")
    for again in ("whole", "w"):
        convert(tmp_path / f"{again}.safetensors", tmp_path / f"{again}2.safetensors", backbone_only=True)
        assert_same(dict(segnets.load(tmp_path / f"{again}2.safetensors").state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--remap-classes", "map.json"], "the source has no class names. Pass --classes"),
        (
            ["--classes", "names.txt", "--remap-classes", "typo.json"],
            "the source has no class 'raod'. Did you mean 'road'?",
        ),
        (["--remap-classes", "number.json"], "the source has no class 4; its classes are 0 to 3"),
        (["--remap-classes", "list.json"], "class map is not a JSON object"),
        (["--remap-classes", "twice.json"], "holds the name 'a' twice"),
        (["--remap-classes", "bad.json"], "class map is damaged: it is not JSON"),
        (["--remap-classes", "true.json"], "must map to a class of the source, by name or number, or null"),
        (["--remap-classes", "absent.json"], "the file does not exist"),
        (["--num-classes", "3", "--remap-classes", "map.json"], "the class map has 1 classes. Omit one of the two."),
        (["--num-classes", "3", "--classes", "names.txt"], "the network has 3 classes, but 4 class names were given"),
        (["--backbone-only", "--num-classes", "3"], "a backbone alone, which has no classes"),
    ],
)
def test_refused_edits(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_source(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("\n".join(CLASSES))
    texts = {
        "map": '{"a": "road"}',
        "typo": '{"a": "raod"}',
        "number": '{"a": 4}',
        "list": '["road"]',
        "twice": '{"a": "road", "a": "sky"}',
        "bad": "{road",
        "true": '{"a": true}',
    }
    for name, text in texts.items():
        Path(f"{name}.json").write_text(text)
    assert main(["convert", "w.pth", "w.safetensors", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("w.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-classes", "0"], "0: expected an integer of at least 1"),
        (["--num-classes", "many"], "many: expected an integer of at least 1"),
        (["--option", "output_stride"], "output_stride: expected NAME=VALUE"),
        (["--golden-tolerance", "0.1"], "--golden-tolerance needs --golden"),
        (["--with", "keras"], "invalid choice: 'keras'"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        main(["convert", str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors"), *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_ambiguous_class_names_and_unusable_checks(tmp_path: Path) -> None:
    write_source(tmp_path)
    with pytest.raises(WeightsError, match=r"several classes of the source are named 'a'\. Use their numbers"):
        converted(tmp_path, classes=("a", "a", "b", "c"), remap_classes={"x": "a"})
    with pytest.raises(WeightsError, match="unknown project 'keras'"):
        converted(tmp_path, compare_with="keras")
    with pytest.raises(WeightsError, match="golden_tolerance requires golden"):
        converted(tmp_path, golden_tolerance=0.1)


def test_a_published_file_keeps_its_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source(tmp_path)
    digits = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()[:8]
    name = "lraspp_mobilenet_v3_large"
    row = Published(name, "V1", f"{name}-{digits}.pth", 1, "", {}, classes=CLASSES)
    monkeypatch.setattr(provenance, "CATALOG", (row,))
    (tmp_path / "w.pth").rename(tmp_path / row.file)

    def known(**options: Any) -> Any:
        convert(tmp_path / row.file, tmp_path / "w.safetensors", overwrite=True, **options)
        return segnets.load(tmp_path / "w.safetensors").card

    assert known().provenance["published_as"] == f"{name} V1"
    assert "published_as" not in known(backbone_only=True).provenance
    assert "published_as" not in known(layout="segnets", options={"output_stride": 8}).provenance
    fewer = known(remap_classes={"way": "road"})
    assert fewer.provenance["made_of"] == f"{name} V1"
    assert "published_as" not in fewer.provenance


def write_golden(folder: Path, state: State, **options: Any) -> Path:
    """Write golden.safetensors with the output of the source's network, plus `off`."""
    theirs = network("lraspp_mobilenet_v3_large", num_classes=len(CLASSES))
    theirs.load_state_dict(dict(state))
    x = torch.randn(1, 3, 64, 65)
    with torch.inference_mode():
        out = theirs(x)["out"]
    save_file({"input": x, "output": out + options.get("off", 0.0)}, folder / "golden.safetensors")
    return folder / "golden.safetensors"


def test_checks_are_recorded_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = write_source(tmp_path)
    path = write_golden(tmp_path, state)
    arguments = ["convert", str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors"), "--json"]
    assert main([*arguments, "--golden", str(path), "--with", "torchvision", "--dtype", "float16"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["proven"]) == 2
    assert answer["proven"][1].endswith("the same results, bit for bit; measured before: cast to float16")
    model: Any = segnets.load(tmp_path / "w.safetensors", dtype=None)
    proof = model.card.provenance["proof"]
    assert proof["tensors"] == "cast to float16"
    assert proof["golden"]["measured"][0]["holds"] is True
    assert proof["compared"]["torchvision"]["holds"] is True
    assert proof["golden"]["before"] == proof["compared"]["torchvision"]["before"] == ["cast to float16"]
    assert model.classifier.low_classifier.weight.dtype == torch.float16
    assert info(["info", str(tmp_path / "w.safetensors")]) == 0
    lines = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("verified ")]
    assert lines[:2] == [
        "cast to float16",
        "same outputs as torchvision's own network (no difference); changed afterwards: cast to float16",
    ]
    assert lines[2].startswith("same outputs as the reference output of the source (")


def test_a_check_records_later_changes(tmp_path: Path) -> None:
    path = write_golden(tmp_path, write_source(tmp_path))
    model: Any = converted(tmp_path, golden=path, num_classes=7, dtype="float32")
    (change,) = model.card.provenance["proof"]["golden"]["before"]  # float32 already: no cast
    assert change.startswith("last layers of 7 classes, 7 of them newly initialised")
    model = converted(tmp_path, golden=path)
    assert "before" not in model.card.provenance["proof"]["golden"]


@pytest.mark.parametrize("allowed", [False, True])
def test_a_cast_that_overflows_is_refused(allowed: bool, tmp_path: Path) -> None:
    """Without this check, infinite values would be written, and refused when the file is converted again."""
    state = {name: tensor.clone() for name, tensor in write_source(tmp_path).items()}
    name = next(name for name in state if name.endswith("running_var"))
    state[name][:3] = 1e5
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=rf"do not fit in float16: {name} \(3 of 16\)\. Use bfloat16, which has a larger range"
    ):
        converted(tmp_path, dtype="float16", allow_nonfinite=allowed)
    assert not (tmp_path / "w.safetensors").exists()
    converted(tmp_path, dtype="bfloat16")
    state[name][:3] = float("inf")  # already infinite in the source
    torch.save(state, tmp_path / "w.pth")
    if allowed:
        model = converted(tmp_path, dtype="float16", allow_nonfinite=True)
        assert model.state_dict()[name][:3].isinf().all()
    else:
        with pytest.raises(WeightsError, match="1 tensors hold NaN or infinite values"):
            converted(tmp_path, dtype="float16")


def test_a_cast_that_underflows_is_refused(tmp_path: Path) -> None:
    state = write_source(tmp_path)
    torch.save({name: t * 1e-9 if t.ndim == 4 else t for name, t in state.items()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"cast to float16, \d+ of \d+ convolution kernels hold only zeros"):
        converted(tmp_path, dtype="float16")
    converted(tmp_path)


def test_a_failed_golden_check_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_golden(tmp_path, write_source(tmp_path), off=20.0)
    arguments = ["convert", str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors"), "--golden", str(path)]
    assert main(arguments) == 1
    assert "the converted network does not reproduce the golden output" in capsys.readouterr().err
    assert not (tmp_path / "w.safetensors").exists()
    assert main([*arguments, "--golden-tolerance", "0.1"]) == 0


@pytest.mark.parametrize("name", full_but(["mobilenet_v3_small"], ["resnet18", "mobilenet_v3_small"]))
def test_a_backbone_alone_is_checked_by_its_features(name: str, tmp_path: Path) -> None:
    write_source(tmp_path, name)
    model: Any = converted(tmp_path, backbone_only=True, compare_with="torchvision")
    proof = model.card.provenance["proof"]["compared"]["torchvision"]
    assert proof["holds"] is True
    assert proof["network"].startswith(f"torchvision.models.{name}(num_classes=0")
    x = torch.randn(1, 3, 64, 64)
    save_file({"input": x, "output": model(x).detach()}, tmp_path / "features.safetensors")
    converted(tmp_path, backbone_only=True, golden=tmp_path / "features.safetensors")


def test_a_backbone_alone_has_no_logits(tmp_path: Path) -> None:
    path = write_golden(tmp_path, write_source(tmp_path))
    for proof in ({"golden": path}, {"compare_with": "torchvision"}):
        with pytest.raises(WeightsError, match=r"a backbone alone has no logits to compare\. Check the whole network"):
            converted(tmp_path, backbone_only=True, **proof)
    assert not (tmp_path / "w.safetensors").exists()


def test_the_report_notes_that_outputs_are_not_checked(tmp_path: Path) -> None:
    write_source(tmp_path)
    report = convert(tmp_path / "w.pth", tmp_path / "w.safetensors")
    assert report.proven == ()
    assert "tensor values only; to check the outputs too" in str(report)
    torch.save(segnets.create_model("pspnet_resnet18", num_classes=2).state_dict(), tmp_path / "p.pth")
    with pytest.raises(WeightsError, match="torchvision has no network that corresponds to pspnet_resnet18"):
        convert(tmp_path / "p.pth", tmp_path / "v.safetensors", compare_with="torchvision")
    assert not (tmp_path / "v.safetensors").exists()


def test_two_networks_in_one_module(tmp_path: Path) -> None:
    """A LightningModule with a student and a teacher saves both."""
    one, other = (dict(network("resnet18", num_classes=3).state_dict()) for _ in range(2))
    state = {**{f"student.{k}": v for k, v in one.items()}, **{f"teacher.{k}": v for k, v in other.items()}}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"several networks, whose names begin with 'student\.' and 'teacher\.'\. Choose"
    ):
        converted(tmp_path)
    assert_same(dict(converted(tmp_path, key="teacher").state_dict()), other)


@pytest.mark.parametrize(
    ("head", "prefix"),
    full_but(
        [("head", ""), ("projector", "model.backbone.")],
        [(head, prefix) for head in ("head", "projector") for prefix in ("", "backbone.", "model.backbone.")],
    ),
)
def test_a_backbone_under_a_head_of_any_kind(head: str, prefix: str, tmp_path: Path) -> None:
    tensors = {
        "head": {"head.weight": torch.ones(5, 512)},
        "projector": {"projector.0.weight": torch.ones(2, 512), "queue": torch.ones(3)},
    }[head]
    body = {k: v for k, v in source_state("resnet18").items() if not k.startswith("fc.")}
    torch.save({**{prefix + k: v for k, v in body.items()}, **tensors}, tmp_path / "w.pth")
    assert_same(dict(converted(tmp_path, backbone_only=True).state_dict()), body)
