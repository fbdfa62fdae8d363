"""Small files that version 0.1 of segnets wrote, one of each kind, and where to unpack them.

`v0_1/` holds two networks as weights files, their exports (compressed by xz), one image, and the mask that version
0.1 computed of it with each network. Their weights take few values, so that the files compress well.
"""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FOLDER = Path(__file__).parent / "v0_1"
LRASPP, DEEPLAB = "lraspp_mobilenet_v3_small", "deeplabv3_resnet18"
# Each export, its network, and on how many of the 6912 pixels its class differed from the network's with version 0.1.
EXPORTS = {
    "portable.ts": (LRASPP, 0),
    "network.onnx": (LRASPP, 0),
    "aoti.pt2": (LRASPP, 0),
    "cpu.ts": (DEEPLAB, 0),
    "cpu_bfloat16.ts": (DEEPLAB, 55),
    "int8.onnx": (DEEPLAB, 132),
}


def unpack(name: str, folder: Path) -> Path:
    """Write the file `name` of version 0.1 into `folder` and return its path."""
    path = folder / name
    path.write_bytes(lzma.decompress((FOLDER / f"{name}.xz").read_bytes()))
    return path


def image() -> Tensor:
    """Return the image, (1, 72, 96, 3) uint8."""
    return torch.from_numpy(np.array(Image.open(FOLDER / "image.png")))[None]


def mask(network: str) -> Tensor:
    """Return the mask that version 0.1 computed with a network, (1, 72, 96) uint8."""
    return torch.from_numpy(np.array(Image.open(FOLDER / f"{network}.png")))[None]
