"""Joining the three graphs of an ONNX export into one, from an image to its mask."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from segnets.cli import main
from segnets.deploy import Exported, export, join_onnx, load_exported
from segnets.deploy import _join_onnx as onnx_join
from segnets.deploy._join_onnx import SHAPES
from segnets.errors import ExportError
from segnets.preprocessing import Preprocessing
from segnets.segmenter import segment
from tests.deploy.common import random_image, tiny
from tests.tiers import full_but

PREPROCESSINGS = (
    Preprocessing(size=64, channel_order="BGR"),
    Preprocessing(resize="fixed", size=(50, 90), interpolation="bicubic"),
    Preprocessing(resize="scale", size=0.5),
    Preprocessing(resize="none", mean=(0.5, 0.4, 0.3)),
)
EVERYDAY: list[dict[str, Any]] = [{"opset": 18, "classes": 300}, {"opset": 23, "dtype": "int8"}]
ALONE: list[dict[str, Any]] = [{"opset": 18}, {"opset": 23}, {"classes": 300}, {"dtype": "int8"}]

pytestmark = pytest.mark.usefixtures("tiny_translated_once")


@pytest.fixture(scope="module")
def plain(tiny_translated_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the tiny model with the first preprocessing, for tests that only read or copy the file."""
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    export(tiny(), path, format="onnx", preprocessing=PREPROCESSINGS[0], classes=["a", "b", "c", "d", "e"])
    return path


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS, ids=lambda each: each.resize)
def test_masks_equal_those_of_the_export(preprocessing: Preprocessing, tmp_path: Path) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "joined.onnx"
    export(tiny(), source, format="onnx", preprocessing=preprocessing)
    assert join_onnx(source, target) == tuple(batch * height * width for batch, height, width in SHAPES)
    domains = [each.domain for each in onnx.load(target).opset_import]
    assert len(domains) == len(set(domains))
    graph, exported = onnxruntime.InferenceSession(target), load_exported(source)
    assert [each.name for each in graph.get_inputs()] == ["image"]
    for height, width in ((1, 1), (47, 33), (100, 64)):
        image = torch.cat([random_image(height, width), random_image(height, width) // 2])
        (mask,) = graph.run(None, {"image": image.numpy()})
        assert mask.dtype == np.uint8
        assert torch.equal(torch.from_numpy(mask), exported.segment(image))
        assert (torch.from_numpy(mask) == segment(tiny(), image, preprocessing)).float().mean() > 0.99


def test_the_contract_is_stored_in_the_export(plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "joined.onnx"
    join_onnx(plain, target)
    entries = {each.key: each.value for each in onnx.load(target).metadata_props}
    assert json.loads(entries["segnets.json"])["classes"] == ["a", "b", "c", "d", "e"]
    with pytest.raises(ExportError, match=r"joined\.onnx: is one graph from an image to its mask .* Pass the export"):
        load_exported(target)
    with pytest.raises(ExportError, match="is one graph from an image to its mask"):
        join_onnx(target, tmp_path / "again.onnx")


def test_a_graph_with_different_masks_is_not_kept(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "joined.onnx"
    shutil.copy(plain, source)
    target.write_bytes(b"kept")

    def another_class(self: object, image: torch.Tensor) -> torch.Tensor:
        return torch.full(image.shape[:3], 7, dtype=torch.uint8)

    monkeypatch.setattr(Exported, "segment", another_class)
    with pytest.raises(
        ExportError, match=r"the joined graph returns a different class in \d+ of \d+ pixels .* was not kept"
    ):
        join_onnx(source, target)
    assert target.read_bytes() == b"kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["joined.onnx", "m.onnx"]


@pytest.mark.parametrize("options", full_but(EVERYDAY, [*EVERYDAY, *ALONE]), ids=str)
def test_other_exports(options: dict[str, Any], tmp_path: Path) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "joined.onnx"
    options = dict(options)
    model = tiny(options.pop("classes", 5))
    if "dtype" in options:
        Image.fromarray(random_image(64, 80)[0].numpy()).save(tmp_path / "a.png")
        Image.fromarray(random_image(64, 80, seed=1)[0].numpy()).save(tmp_path / "b.png")
        options |= {"calibration": tmp_path, "minimum_agreement": 0}
    export(model, source, format="onnx", preprocessing=PREPROCESSINGS[1], **options)
    join_onnx(source, target)
    assert onnx.load(target).opset_import[0].version == options.get("opset", 20)


def test_the_export_is_not_overwritten(plain: Path, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    shutil.copy(plain, source)
    before = source.read_bytes()
    with pytest.raises(ExportError, match=r"m\.onnx: is the export itself, which the joined graph can't replace"):
        join_onnx(source, source)
    assert source.read_bytes() == before


def test_onnx_runtime_refusals_are_one_line(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "m.onnx"
    shutil.copy(plain, source)

    class Broken:
        def run(self, *_: object) -> None:
            raise MemoryError("no room\nfor it")

    monkeypatch.setattr(onnx_join, "session", lambda *_: Broken())
    with pytest.raises(ExportError, match=r"joined\.onnx: ONNX Runtime can't run it: .*no room"):
        join_onnx(source, tmp_path / "joined.onnx")
    assert not (tmp_path / "joined.onnx").exists()


def test_damage_and_missing_packages(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "m.onnx"
    shutil.copy(plain, source)
    (tmp_path / "cut.onnx").write_bytes(source.read_bytes()[:-9])
    with pytest.raises(ExportError, match=r"cut\.onnx: is truncated or damaged"):
        join_onnx(tmp_path / "cut.onnx", tmp_path / "joined.onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        ExportError, match=r"join_onnx needs onnx and onnxruntime, which are not installed: pip install"
    ):
        join_onnx(source, tmp_path / "joined.onnx")


def test_the_command(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "joined.onnx"
    shutil.copy(plain, source)
    assert main(["join", str(source), str(target)]) == 0
    assert "in all 12504 pixels of 3 image sizes" in capsys.readouterr().out
    assert main(["join", str(source), str(target)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["join", str(tmp_path / "absent.onnx"), str(tmp_path / "o.onnx")]) == 1
    assert "can't be read" in capsys.readouterr().err


def test_only_onnx_is_joined(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"is torchscript\. Pass a file written by export\(format='onnx'\)"):
        join_onnx(small, tmp_path / "joined.onnx")
    assert not (tmp_path / "joined.onnx").exists()
