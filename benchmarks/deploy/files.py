"""Write the files that the candidates load: torchvision's weights, torchvision's network in ONNX, and our exports.

All of them hold the same network with random weights, because speed does not depend on the values.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

import segnets
from segnets.preprocessing import Preprocessing
from segnets.torchvision_compat import torchvision

M = TypeVar("M", bound=nn.Module)

EXPORTS: dict[str, dict[str, Any]] = {
    "-portable.ts": {"target": "portable"},
    "-cpu.ts": {"target": "cpu"},
    "-cpu-bf16.ts": {"target": "cpu", "dtype": "bfloat16"},
    "-aoti.pt2": {"format": "aoti"},
    "-aoti-bf16.pt2": {"format": "aoti", "dtype": "bfloat16"},
    "-segnets.onnx": {"format": "onnx"},
    # With random kernels, few pixels keep their class in 8 bits.
    "-int8.onnx": {"format": "onnx", "dtype": "int8", "minimum_agreement": 0},
}


def make(network: str, folder: Path, wanted: Iterable[str]) -> None:
    """Write the files that are missing.

    Args:
        network: Name of the network.
        folder: Folder to write to.
        wanted: Suffixes of the files: ".pth", ".onnx" or a name in EXPORTS. A number of threads may follow the stem,
            as in "-aoti-1.pt2", because the compiler lays out weights for the threads of its own process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        path = folder / f"{network}{name}"
        if not path.exists():
            _writer(name)(network, path)


def _writer(name: str) -> Callable[[str, Path], None]:
    if name == ".pth":
        return lambda network, path: torch.save(torchvision_network(network).state_dict(), path)
    if name == ".onnx":
        return _write_onnx
    stem, suffix = name.split(".")
    body, _, threads = stem.rpartition("-")
    if threads.isdigit():
        return lambda network, path: _export_for(int(threads), network, path, EXPORTS[f"{body}.{suffix}"])
    return lambda network, path: _export(network, path, EXPORTS[name])


def channels_last(module: M) -> M:
    """Convert a module's 4-D tensors in place; torch's type hints omit this overload of `Module.to`."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def torchvision_network(network: str) -> nn.Module:
    """Build torchvision's network in eval mode, with random batch norms."""
    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models.segmentation, network)(weights=None, weights_backbone=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return model.eval()


def _write_onnx(network: str, path: Path) -> None:
    """Export torchvision's network as its users do, with dynamic batch and size."""
    sizes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Logits(torchvision_network(network)).eval(),
            (torch.rand(2, 3, 128, 160),),
            dynamo=True,
            dynamic_shapes=({index: torch.export.Dim(name) for index, name in sizes.items()},),
        )
    assert program is not None
    program.save(path)


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x)["out"]
        return logits


def _export_for(threads: int, network: str, path: Path, options: dict[str, Any]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _export(network, path, options)
    finally:
        torch.set_num_threads(before)


def _export(network: str, path: Path, options: dict[str, Any]) -> None:
    model = segnets.create_model(network)
    segnets.load_weights(model, dict(torchvision_network(network).state_dict()))
    with tempfile.TemporaryDirectory() as images:
        if options.get("dtype") == "int8":
            _write_images(Path(images))
            options = {**options, "calibration": images}
        segnets.export(model, path, preprocessing=Preprocessing(), **options)


def _write_images(folder: Path) -> None:
    """Write noise from coarse to fine, so that calibration finds a range for every layer."""
    draw = np.random.default_rng(0)
    for index in range(4):
        noise = draw.integers(0, 256, (8 << index, 8 << index, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 520), Image.Resampling.BILINEAR).save(folder / f"{index}.png")
