"""The commands and the code of the README run in their order."""

from __future__ import annotations

import argparse
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnets.cli import main
from tests import blocks
from tests.blocks import run
from tests.data.common import make_data_set
from tests.oracle import randomise_, torchvision
from weights_tools.cli import main as weights_tools_main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = [each for each in blocks.blocks_of(README) if each[0] in ("python", "bash")]
needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="no C++ compiler; install one, such as g++ of Debian"
)


def block(kind: str, word: str) -> str:
    return blocks.the_block(BLOCKS, kind, word)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint of torchvision's reference script and a photograph, as the README assumes."""
    folder = tmp_path_factory.mktemp("workspace")
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    randomise_(model)
    state = {"model": model.state_dict(), "epoch": 3, "args": argparse.Namespace(lr=0.01)}
    torch.save(state, folder / "checkpoint.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.ppm")
    Image.fromarray(pixels).save(folder / "photo.jpg")
    (folder / "photos").mkdir()
    Image.fromarray(pixels).save(folder / "photos" / "a.jpg")
    return folder


def _convert(workspace: Path) -> None:
    assert (
        weights_tools_main(["convert", *(str(workspace / name) for name in ("checkpoint.pth", "weights.safetensors"))])
        == 0
    )


@pytest.mark.filterwarnings("error")
def test_train(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "train.py").write_text(block("python", "optimizer"))
    monkeypatch.chdir(workspace)
    runpy.run_path("train.py")
    assert (workspace / "mine.safetensors").exists()


def test_train_from_a_folder(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data_set(workspace / "DATA")
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), workspace / "backbone.pth")
    monkeypatch.chdir(workspace)
    check, train, evaluate = [line.split()[1:] for line in block("bash", "segnets train").splitlines() if line]
    assert main(check) == 0
    assert main([*train, "--epochs", "1", "--batch", "2", "--crop", "32"]) == 0
    assert main(evaluate) == 0
    assert "mean IoU" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_other_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "block.py").write_text(block("python", "freeze_backbone"))
    runpy.run_path(str(tmp_path / "block.py"))
    out = capsys.readouterr().out
    assert "pspnet_resnet152" in out
    assert "'norm_layer': 'batch'" in out


@pytest.mark.filterwarnings("error")
def test_convert(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the first command as the reader does, and the others in this process."""
    installed, *others = block("bash", "weights-tools").splitlines()
    assert "lraspp_mobilenet_v3_large" in run(["bash", "-euc", installed], workspace)
    monkeypatch.chdir(workspace)
    for line in others:
        program, *arguments = line.split()
        assert {"weights-tools": weights_tools_main, "segnets": main}[program](arguments) == 0
        assert "lraspp_mobilenet_v3_large" in capsys.readouterr().out
    assert (workspace / "weights.safetensors").exists()


@pytest.mark.filterwarnings("error")
def test_image_to_mask(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (workspace / "weights.safetensors").exists():
        _convert(workspace)
    (workspace / "block.py").write_text(block("python", "segnets.segment(") + block("python", "Predictor("))
    monkeypatch.chdir(workspace)
    assert runpy.run_path("block.py")["mask"].shape == (90, 120)
    with Image.open(workspace / "photo.overlay.jpg") as picture:
        assert picture.width >= 120
    for command in block("bash", "segnets predict").splitlines():
        assert main(command.split()[1:]) == 0
    written = {
        folder: sorted(path.name for path in (workspace / folder).iterdir() if not path.name.startswith("."))
        for folder in ("results", "masks")
    }
    assert written == {
        "results": ["photo.overlay.jpg", "photo.png"],
        "masks": ["a.overlay.jpg", "a.png", "areas.csv"],
    }


@needs_compiler
@pytest.mark.filterwarnings("error")
def test_deploy(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run `make cpp` where the Makefile is, and the rest in the reader's folder; `segnets` itself in this process."""
    if not (workspace / "weights.safetensors").exists():
        _convert(workspace)
    (workspace / "build").symlink_to(ROOT / "build")
    monkeypatch.chdir(workspace)
    lines = block("bash", "segnets export").splitlines()
    ours = [line.split()[1:] for line in lines if line.startswith("segnets ")]
    assert lines[: len(ours)] == [" ".join(["segnets", *each]) for each in ours]  # they come first
    assert [main(each) for each in ours] == [0, 0, 0]
    assert "passed" in capsys.readouterr().out
    assert "passed" in blocks.bash("\n".join(lines[len(ours) :]), workspace)
    if list((workspace / "site-packages").glob("segnets_native.*")):  # built where Python has its headers
        code = 'import sys; sys.path.insert(0, "site-packages")\n' + block("python", "segnets_native")
        run([sys.executable, "-W", "error", "-c", code + "assert mask.shape == (480, 640)"], workspace)
    with Image.open(workspace / "mask.pgm") as mask, Image.open(workspace / "overlay.ppm") as overlay:
        assert mask.size == overlay.size == (120, 90)
