"""Small networks and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import segnets
from segnets.cli import main

CLASSES = ("sky", "road", "car")
PALETTE = ((0, 0, 0), (200, 40, 40), (40, 90, 220))


def small_model(num_classes: int = 3) -> segnets.SegmentationModel:
    """Return a random network whose masks have several classes, with names and colours."""
    torch.manual_seed(5)
    model: segnets.SegmentationModel = segnets.create_model("lraspp_mobilenet_v3_small", num_classes=num_classes).eval()
    with torch.no_grad():  # every class is the largest somewhere
        classifier: Any = model.classifier
        for module in (classifier.low_classifier, classifier.high_classifier):
            module.weight.normal_()
        logits = model(segnets.preprocess(torch.from_numpy(random_image(64, 64).copy())[None]))["out"]
        classifier.high_classifier.bias -= logits.mean((0, 2, 3))
    model.card = segnets.ModelCard(
        classes=CLASSES[:num_classes] if num_classes == 3 else (),
        palette=PALETTE[:num_classes] if num_classes == 3 else (),
        preprocessing=segnets.Preprocessing(size=64),
    )
    return model


def random_image(height: int = 40, width: int = 56, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return an image of smooth noise, (height, width, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def image_folder(folder: Path, count: int = 5, suffix: str = ".png") -> Path:
    """Write images of two sizes to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(random_image(40 + 8 * (number % 2), seed=number)).save(folder / f"{number}{suffix}")
    return folder


def predict(weights: Path, *arguments: object) -> int:
    """Run `segnets predict`, and return its exit status. Rewriting the network would take a second for each call."""
    return main(["predict", "--model", str(weights), "--deterministic", *map(str, arguments)])


def outputs_in(folder: Path) -> dict[str, bytes]:
    """Return the visible files of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }
