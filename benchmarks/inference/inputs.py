"""Images and weights for the benchmarks of inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import segnets
from tests.oracle import randomise_, torchvision

FAST, SLOW = "lraspp_mobilenet_v3_large", "deeplabv3_resnet50"
NETWORKS = (FAST, SLOW)
TRAINED = f"{FAST}, trained"
CLASSES = 21
SUFFIXES = (".jpg", ".jpeg", ".png")


def network(name: str) -> nn.Module:
    """Build torchvision's network with random weights, in eval mode."""
    model = _torchvision_network(name, CLASSES)
    randomise_(model)
    return model


def network_with(weights: str) -> nn.Module:
    """Build torchvision's network with the weights of a weights file, in eval mode."""
    ours: Any = segnets.load(weights)
    model = _torchvision_network(ours.config.name, ours.config.options["num_classes"])
    model.load_state_dict(ours.state_dict())
    return model


def _torchvision_network(name: str, classes: int) -> nn.Module:
    model: nn.Module = getattr(torchvision.models.segmentation, name)(
        weights=None, weights_backbone=None, num_classes=classes
    )
    return model.eval()


def save_weights(folder: Path, trained: Path | None = None) -> dict[str, Path]:
    """Save the weights of `network`, and those of a trained network, as weights files with the usual preprocessing.

    Args:
        folder: Folder for the files.
        trained: Weights file of a trained network, with any preprocessing, or None.

    Returns:
        The files by name: `NETWORKS`, and `TRAINED` if `trained` is given.

    Raises:
        ValueError: If `trained` belongs to another network than `FAST`.
    """
    models: dict[str, nn.Module] = {
        name: segnets.create_model(name, num_classes=CLASSES, weights=network(name).state_dict()) for name in NETWORKS
    }
    if trained is not None:
        ours: Any = segnets.load(trained)
        if ours.config.name != FAST:
            raise ValueError(f"{trained}: expected weights of {FAST}, got those of {ours.config.name}")
        models[TRAINED] = ours
    files = {name: folder / f"{name.replace(', ', '_')}.safetensors" for name in models}
    for name, model in models.items():
        segnets.save(model, files[name], preprocessing=segnets.Preprocessing())
    return files


def find_images(folder: Path) -> list[Path]:
    """Return the images of a folder by name.

    Raises:
        FileNotFoundError: If it has none.
    """
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not images:
        raise FileNotFoundError(f"{folder}: no images ({', '.join(SUFFIXES)})")
    return images


def make_images(folder: Path, count: int = 32, height: int = 360, width: int = 480) -> list[Path]:
    """Write JPEG files of smooth random colours with noise, which take as long to decode as photographs."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for number in range(count):
        path = folder / f"{number:03}.jpg"
        Image.fromarray(random_image(height, width, generator)).save(path, quality=90)
        paths.append(path)
    return paths


def random_image(
    height: int, width: int, generator: torch.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Draw an image of smooth random colours with noise, (H, W, 3) uint8."""
    coarse = torch.rand(1, 3, height // 40 + 2, width // 40 + 2, generator=generator) * 255
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")[0].permute(1, 2, 0)
    noisy = smooth + torch.randn(height, width, 1, generator=generator) * 8
    return noisy.clamp(0, 255).to(torch.uint8).numpy()


def noise_logits(height: int, width: int) -> torch.Tensor:
    """Draw logits (C, height, width) in which no neighbours belong together: the worst case for a decoder."""
    return torch.randn(CLASSES, height, width, generator=torch.Generator().manual_seed(0)) * 3


def region_logits(height: int, width: int) -> torch.Tensor:
    """Draw logits (C, height, width) of some 20 regions with ragged borders.

    At 65x87 for an image of 360x480, 28 % of its pixels are where classes meet. With a small network trained on CamVid
    it was 12 %, and with random weights it is 32 %.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, CLASSES, 4, 6, generator=generator) * 4
    regions = F.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    return regions + torch.randn(CLASSES, height, width, generator=generator) * 0.1
