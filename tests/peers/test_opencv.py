"""ONNX files of a fixed size in OpenCV, which `make test-peers` installs in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from segnets.deploy import export, load_exported
from tests.deploy.common import calm_model

PYTHON = Path(os.environ.get("SEGNETS_OPENCV_PYTHON", "build/opencv/bin/python")).absolute()
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="make test-peers installs OpenCV in build/opencv")


@pytest.mark.parametrize(
    "name",
    [
        "lraspp_mobilenet_v3_small",
        "deeplabv3_mobilenet_v3_large",
        "lraspp_resnet18",
        "deeplabv3_resnet18",
        "deeplabv3plus_resnet18",
        "fcn_resnet18",
    ],
)
def test_logits_equal_those_of_onnx_runtime(name: str, tmp_path: Path) -> None:
    export(calm_model(name, num_classes=5), tmp_path / "m.onnx", size=(1, 3, 96, 128))
    image = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "input.npy", image.numpy())
    script = Path(__file__).with_name("opencv_runs.py")
    subprocess.run([PYTHON, script, tmp_path / "m.onnx", tmp_path / "input.npy", tmp_path], check=True, timeout=120)
    expected = load_exported(tmp_path / "m.onnx").logits(image)
    for engine in ("ENGINE_AUTO", "ENGINE_CLASSIC", "ENGINE_NEW"):
        logits = torch.from_numpy(np.load(tmp_path / f"{engine}.npy"))
        assert (logits - expected).abs().max() < 1e-4 * expected.abs().max(), engine
