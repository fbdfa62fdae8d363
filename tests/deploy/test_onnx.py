"""ONNX exports: agreement with the model, damaged files, and refused options."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch

import segnets
from segnets.cli import main
from segnets.deploy import export, load_exported, read_contract, verify
from segnets.deploy.formats.onnx import container as onnx_file
from segnets.deploy.formats.onnx._format import OnnxProgram
from segnets.errors import ExportError, ImageError
from segnets.preprocessing import Preprocess, Preprocessing, preprocess
from segnets.segmenter import segment
from tests.deploy.common import SMALL, calm_model, random_image, tiny


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    assert export(tiny(), path, format="onnx", preprocessing=SMALL).verification.passed
    return path


def test_agrees_at_other_sizes_and_batches(written: Path) -> None:
    model = tiny()
    report = verify(written, against=model)
    assert report.passed
    assert len(report.comparisons) == 3
    exported = load_exported(written)
    for shape in ((1, 3, 1, 1), (7, 3, 40, 501), (65, 3, 2, 34), (2, 3, 300, 7)):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            # ONNX's Resize rounds positions between two pixels differently.
            torch.testing.assert_close(exported.logits(image), model(image)["out"], rtol=1e-5, atol=5e-5)
    with torch.no_grad():
        model.backbone.get_parameter("convolution.weight").mul_(1.01)
    assert not verify(written, against=model).passed


def test_segments_images_of_any_size(written: Path) -> None:
    exported = load_exported(written)
    for height, width in ((1, 1), (47, 33), (100, 64), (64, 80)):
        image = random_image(height, width)
        assert (exported.preprocess(image) - preprocess(image, SMALL)).abs().max() < 0.02  # a grey level
        mask = exported.segment(image)
        assert (mask.shape, mask.dtype) == ((1, height, width), torch.uint8)
        assert (mask == segment(tiny(), image, SMALL)).float().mean() > 0.99


def test_onnx_runtime_alone_runs_it(written: Path) -> None:
    session = onnxruntime.InferenceSession(written)
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    logits = session.run(None, {"input": np.zeros((3, 3, 17, 64), dtype=np.float32)})[0]
    assert logits.shape == (3, 5, 17, 64)
    contract = json.loads(session.get_modelmeta().custom_metadata_map["segnets.json"])
    assert contract["opset"] == 20
    assert contract["dynamic_axes"]["input"] == {"0": "batch", "2": "height", "3": "width"}
    onnx.checker.check_model(onnx.load(written), full_check=True)
    assert read_contract(written).opset == 20


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 4, 64, 64), "with 4 channels"),
        (torch.zeros(3, 64, 64), "3-D shape"),
        (torch.zeros(1, 3, 0, 64), "holds no pixels"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "got integers"),
    ],
)
def test_invalid_inputs(written: Path, image: torch.Tensor, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_exported(written).logits(image)


def test_invalid_images(written: Path) -> None:
    exported = load_exported(written)
    for image, message in (
        (torch.zeros(1, 0, 5, 3, dtype=torch.uint8), "holds no pixels"),
        (torch.zeros(1, 5, 5, 3), "got torch.float32"),
        (torch.zeros(5, 5, 3, dtype=torch.uint8), "add the batch dimension"),
    ):
        with pytest.raises(ImageError, match=message):
            exported.segment(image)
    assert isinstance(exported.module, OnnxProgram)
    strip = replace(exported.module, checks=Preprocess(Preprocessing()))
    with pytest.raises(ImageError, match="too large to segment"):
        strip.preprocess(torch.zeros(1, 1, 300, 3, dtype=torch.uint8))


def changed(path: Path, target: Path, change: Callable[[dict[str, str]], None]) -> Path:
    """Write the file with changed entries and a correct checksum."""
    entries = onnx_file.unpack(path.read_bytes(), str(path))
    change(entries)
    model = onnx.load(path)
    model.ClearField("metadata_props")
    target.write_bytes(onnx_file.pack(model.SerializeToString(), entries, {}))
    return target


def contract_with(**fields: object) -> Callable[[dict[str, str]], None]:
    def change(entries: dict[str, str]) -> None:
        entries["segnets.json"] = json.dumps({**json.loads(entries["segnets.json"]), **fields})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (contract_with(format_version=3), "has version 3, but this segnets reads 1 to 2. Upgrade segnets"),
        (contract_with(kind="torchscript"), "declares kind 'torchscript', but the file is onnx"),
        (contract_with(opset="new"), "opset is 'new', expected int"),
        (contract_with(dtype="int4"), "dtype='int4': expected one of"),
        (lambda entries: entries.pop("segnets.json"), r"is ONNX, but has no segnets\.json"),
        (lambda entries: entries.pop("golden.safetensors"), r"has no golden\.safetensors"),
        (lambda entries: entries.pop("preprocess.onnx"), r"has no preprocess\.onnx"),
        (lambda entries: entries.update({"mask.onnx": "AAAA"}), r"mask\.onnx: ONNX Runtime can't load it"),
        (lambda entries: entries.update({"mask.onnx": "§"}), r"mask\.onnx is damaged"),
    ],
)
def test_files_that_were_changed(
    written: Path, tmp_path: Path, change: Callable[[dict[str, str]], None], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        load_exported(changed(written, tmp_path / "changed.onnx", change))


def test_damaged_files(written: Path, tmp_path: Path) -> None:
    whole = written.read_bytes()
    path = tmp_path / "damaged.onnx"
    for at in (10, len(whole) // 2, len(whole) - 200, len(whole) - 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ExportError, match="damaged"):
            load_exported(path)
    for size in (2, 1000, len(whole) // 2, len(whole) - 90, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ExportError, match=r"truncated|its end is missing"):
            read_contract(path)


def test_foreign_files(written: Path, tmp_path: Path) -> None:
    model = onnx.load(written)
    model.ClearField("metadata_props")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"is ONNX, but has no segnets\.json: it was not made by segnets\.export"):
        load_exported(tmp_path / "m.onnx")
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    (tmp_path / "e.onnx").write_bytes(onnx_file.pack(model.SerializeToString(), {}, {}))
    with pytest.raises(ExportError, match="has weights in another file"):
        load_exported(tmp_path / "e.onnx")
    (tmp_path / "w.onnx").write_bytes(b"\x08" + bytes(7) + b"{}      ")
    with pytest.raises(ExportError, match="a safetensors file"):
        load_exported(tmp_path / "w.onnx")


def test_beyond_two_gigabytes(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)
    with pytest.raises(ExportError, match="an ONNX file holds at most 2 GB; more would need a second file"):
        export(tiny(), tmp_path / "m.onnx", format="onnx")
    with pytest.raises(ExportError, match="an ONNX file holds at most 2 GB"):
        load_exported(written)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(ExportError, match=r"needs onnxruntime, which is not installed: pip install 'segnets\[onnx\]'"):
        load_exported(written)
    with pytest.raises(ExportError, match=r"needs onnxruntime, which is not installed"):
        export(tiny(), tmp_path / "m.onnx", format="onnx")
    assert read_contract(written).kind == "onnx"  # needs nothing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 17}, r"opset=17: expected 18\.\.23"),
        ({"opset": True}, "opset=True: expected"),
        ({"format": "torchscript", "opset": 20}, "opset=20 needs format='onnx'"),
        ({"output": "dict"}, "output='dict' needs format='torchscript'"),
        ({"target": "cpu"}, "target='cpu' needs format='torchscript'; an ONNX file runs everywhere"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16': format='onnx' takes 'float32' or 'int8'"),
        ({"dtype": "int8"}, "dtype='int8' needs calibration, a folder of images"),
        ({"calibration": "."}, "calibration and minimum_agreement need dtype='int8'"),
        ({"dtype": "int8", "calibration": ".", "minimum_agreement": 2}, "minimum_agreement=2: expected a share"),
        ({"dtype": "int8", "calibration": ".", "format": "aoti"}, "dtype='int8' needs format='onnx'"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export(tiny(), tmp_path / "m", **{"format": "onnx", **options})
    assert list(tmp_path.iterdir()) == []


def test_onnx_runtime_errors_become_one_line(written: Path) -> None:
    exported = load_exported(written)
    assert isinstance(exported.module, OnnxProgram)
    swapped = replace(exported, module=replace(exported.module, network=exported.module.mask))
    with pytest.raises(ExportError, match=r"tiny\.onnx: ONNX Runtime can't run it: .*input") as caught:
        swapped.logits(torch.zeros(1, 3, 8, 8))
    assert "\n" not in str(caught.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segnets.save(calm_model("lraspp_mobilenet_v3_small", num_classes=2), tmp_path / "w.safetensors")
    command = ["export", str(tmp_path / "w.safetensors"), str(tmp_path / "m.onnx"), "--format", "onnx"]
    for options, message in (
        (["--opset", "17"], "segnets: opset=17: expected 18..23; default 20\n"),
        (["--dtype", "int8"], "segnets: dtype='int8' needs calibration"),
        (["--dtype", "int8", "--calibration", "none", "--minimum-agreement", "1.5"], "segnets: minimum_agreement=1.5"),
    ):
        assert main([*command, *options]) == 1
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_no_local_paths_and_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in ("1.onnx", "2.onnx"):
        export(tiny(), tmp_path / name, format="onnx", preprocessing=SMALL)
    data = (tmp_path / "1.onnx").read_bytes()
    assert data == (tmp_path / "2.onnx").read_bytes()
    for folder in (Path(torch.__file__).parent.parent, Path(__file__).parents[2]):
        assert str(folder).encode() not in data


@pytest.mark.full
def test_means_become_poolings(tmp_path: Path) -> None:
    """Runtimes have fast kernels for the pooling of every gate, in 8 bits too."""
    model = calm_model("lraspp_mobilenet_v3_small", num_classes=5)
    gates = sum(isinstance(module, torch.nn.AdaptiveAvgPool2d) for module in model.modules())
    assert export(model, tmp_path / "m.onnx", format="onnx", preprocessing=SMALL).verification.passed
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds.count("GlobalAveragePool") == gates > 0
    assert "ReduceMean" not in kinds


@pytest.mark.full
@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_resnet50", "pspnet_resnet18", "fcn_resnet18"])
def test_networks(name: str, opset: int, tmp_path: Path) -> None:
    model = calm_model(name, num_classes=5)
    report = export(model, tmp_path / "m.onnx", format="onnx", opset=opset, preprocessing=SMALL)
    assert report.verification.passed
    assert read_contract(tmp_path / "m.onnx").opset == opset
