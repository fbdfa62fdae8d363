"""The format and the target of an export that the caller leaves open."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import segnets
from segnets.cli import main
from segnets.deploy import export, read_contract
from segnets.deploy._choices import choose_format, choose_target
from segnets.errors import ExportError
from tests.cpp.common import Tiny
from tests.deploy.common import SMALL, tiny


@pytest.mark.parametrize(
    ("name", "wanted", "format"),
    [
        ("m.ts", None, "torchscript"),
        ("m.pt", None, "torchscript"),
        ("m.TS", None, "torchscript"),
        ("m.pt2", None, "aoti"),
        ("m.onnx", None, "onnx"),
        ("v1.2/m.onnx", None, "onnx"),
        ("m.torchscript", "torchscript", "torchscript"),
        ("m", "onnx", "onnx"),
        ("m.pt", "torchscript", "torchscript"),
    ],
)
def test_the_suffix_chooses_the_format(name: str, wanted: str | None, format: str) -> None:  # noqa: A002
    assert choose_format(Path(name), wanted) == format


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        (
            "m.bin",
            None,
            r"m\.bin: the suffix '\.bin' does not determine the format\. Use the suffix \.ts \(torchscript\), \.pt",
        ),
        ("m", None, "m: a name without a suffix does not determine the format"),
        (
            "m.onnx",
            "torchscript",
            r"the suffix '\.onnx' is for onnx, not for torchscript\. Use the suffix \.ts or \.pt",
        ),
        ("m.ts", "onnx", r"the suffix '\.ts' is for torchscript, not for onnx\. Use the suffix \.onnx"),
        ("m.pt", "aoti", r"the suffix '\.pt' is for torchscript, not for aoti\. Use the suffix \.pt2"),
        ("m.Pt2", "torchscript", r"the suffix '\.Pt2' is for aoti"),
        ("w.safetensors", "onnx", r"the suffix '\.safetensors' is for weights \(safetensors\), not for onnx\. Use the"),
        ("m.pth", "torchscript", r"the suffix '\.pth' is for PyTorch checkpoints, not for torchscript\. Use the"),
    ],
)
def test_a_suffix_that_names_no_format_or_another_one_is_refused(name: str, wanted: str | None, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        choose_format(Path(name), wanted)


def test_a_suffix_of_another_format_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is for onnx, not for torchscript"):
        export(tiny(), tmp_path / "m.onnx", format="torchscript", preprocessing=SMALL)
    with pytest.raises(ExportError, match="is for aoti, not for torchscript"):
        export(tiny(), tmp_path / "m.pt2", format="torchscript", preprocessing=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_the_command_and_the_function_choose_by_the_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    weights, target = tmp_path / "w.safetensors", tmp_path / "m.onnx"
    model = segnets.create_model("fcn_resnet18", num_classes=3, backbone_stages=2, head_channels=8)
    segnets.save(model, weights, preprocessing=SMALL)
    assert main(["export", str(weights), str(target)]) == 0
    assert read_contract(target).kind == "onnx"
    assert "target" not in capsys.readouterr().out  # ONNX has none to choose
    with pytest.raises(ExportError, match="is for torchscript, not for onnx"):
        segnets.join_onnx(target, tmp_path / "joined.ts")


def test_the_default_target_is_that_of_this_libtorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    for has, target, note in [
        (True, "cpu", "target cpu: the fastest, for every LibTorch with oneDNN. target='portable'"),
        (False, "portable", "target portable: runs in every LibTorch, .*: this LibTorch lacks oneDNN"),
    ]:
        with monkeypatch.context() as patch:
            if not has:
                patch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
            elif not torch.backends.mkldnn.is_available():
                continue
            report = export(model, tmp_path / "m.ts", preprocessing=SMALL)
        assert read_contract(tmp_path / "m.ts").target == target
        (line,) = report.notes
        assert re.match(note, line), line
        assert line in str(report)
    assert export(model, tmp_path / "p.ts", preprocessing=SMALL, target="portable").notes == ()
    assert read_contract(tmp_path / "p.ts").target == "portable"  # as requested


def test_a_network_that_target_cpu_does_not_support_becomes_portable(tmp_path: Path) -> None:
    report = export(Tiny(5).eval(), tmp_path / "m.ts", preprocessing=SMALL)
    assert read_contract(tmp_path / "m.ts").target == "portable"
    assert report.notes[0].endswith("target='cpu' takes a segnets.SegmentationModel, not a Tiny")


def test_only_torchscript_for_cpus_has_a_target_to_choose() -> None:
    assert choose_target("onnx", "cpu") == choose_target("aoti", "cpu") == ("portable", "")
    assert choose_target("torchscript", "cuda") == ("portable", "")
