"""The memory of tiles does not depend on the height of the image, and of large images it is bounded."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

MEGABYTE = 1 << 20
# Segments a TIFF file in tiles with a small network of 21 classes, and prints the process's peak of resident memory.
PROGRAM = """
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from segnets.card import ModelCard
from segnets.inference.outputs import Task, Writers
from segnets.inference.predictor import Predictor
from segnets.inference.sources import Item
from segnets.inference.tile_outputs import write_tiled
from segnets.inference.writers import WRITERS
from segnets.preprocessing import Preprocessing


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 21, 1)
        self.card = ModelCard(preprocessing=Preprocessing(resize="none"))

    def forward(self, image):
        logits = self.conv(F.avg_pool2d(image, 16, ceil_mode=True))
        return {"out": F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)}


path, folder, tile, names = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(",")
torch.set_num_threads(1)
files = {name: WRITERS[name] for name in names if name != "csv"}
tables = {"csv": WRITERS["csv"]} if "csv" in names else {}
task = Task(Item(str(path), str(path), Path(path.name)), "result")
entry = write_tiled(task, Predictor(Small().eval(), device="cpu"), Writers(files, tables), folder, tile=tile)
assert entry.state != "failed", entry.reason
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def tiff(path: Path, height: int, width: int) -> Path:
    """Write an image in blocks, of noise that repeats."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 256, width), dtype=np.uint8) // 8 * 8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=height,
            width=width,
            count=3,
            dtype="uint8",
            compress="lzw",
            tiled=True,
            blockxsize=256,
            blockysize=256,
        ) as file:
            for top in range(0, height, 256):
                count = min(256, height - top)
                file.write(pixels[:, :count], window=Window(0, top, width, count))
    return path


def peak(path: Path, tile: int, names: str) -> float:
    """Return the peak of resident memory in megabytes."""
    folder = path.parent / f"out {path.stem}"
    folder.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(path), str(folder), str(tile), names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path.unlink()
    return int(done.stdout) / 1024


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3600)
def test_a_square_image_of_400_megapixels(tmp_path: Path) -> None:
    assert peak(tiff(tmp_path / "large.tif", 20_000, 20_000), 1024, "mask,overlay,confidence,csv") < 1500


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3600)
def test_the_height_takes_no_memory(tmp_path: Path) -> None:
    low = peak(tiff(tmp_path / "low.tif", 16_384, 2_000), 1024, "mask,csv")
    high = peak(tiff(tmp_path / "high.tif", 262_144, 2_000), 1024, "mask,csv")
    assert high < 1.05 * low
