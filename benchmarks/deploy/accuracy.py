"""Measure the accuracy of each export on real images with real weights.

    python -m benchmarks.deploy.accuracy weights.safetensors FOLDER_OF_IMAGES model.ts model.onnx ...
    python -m benchmarks.deploy.accuracy weights.safetensors FOLDER_OF_IMAGES --calibration FOLDER

The output is a Markdown table that compares each file's logits and masks with those of the plain float32 network.
Without files, the network is exported in every format; int8 is then calibrated on the images of another folder. The
column "images prepared" counts the images whose preprocessed input is bit-identical.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import segnets
from benchmarks.deploy.files import EXPORTS
from segnets.deploy import Exported, load_exported
from segnets.deploy.check.reference import logits_of
from segnets.deploy.check.tolerance import relative_difference
from segnets.errors import ExportError
from segnets.segmenter import segment


@dataclass
class Cost:
    """Differences between a file and the plain model, accumulated over images.

    Attributes:
        difference: Largest difference of the logits, relative to the largest logit of the image.
        worst: Share of pixels with the same class, in the worst image.
        same: Number of pixels with the same class.
        pixels: Number of pixels.
        prepared: Number of images whose preprocessed input is bit-identical.
    """

    difference: float = 0.0
    worst: float = 1.0
    same: int = 0
    pixels: int = 0
    prepared: int = 0


def images_in(folder: Path, count: int) -> list[torch.Tensor]:
    """Read at most `count` images, (1, H, W, 3) uint8, evenly spaced in the sorted folder."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = paths[:: max(1, -(-len(paths) // count))]
    return [torch.from_numpy(np.array(Image.open(path).convert("RGB")))[None] for path in chosen]


def measure(model: nn.Module, file: Exported, images: list[torch.Tensor]) -> Cost:
    """Compare one file with the plain model, which is in eval mode."""
    cost, preprocessing = Cost(), file.contract.card.preprocessing
    for image in images:
        prepared = segnets.preprocess(image, preprocessing)
        cost.prepared += torch.equal(prepared, file.preprocess(image))
        difference = relative_difference(file.logits(prepared), logits_of(model, prepared))
        same = file.segment(image) == segment(model, image, preprocessing)
        cost.difference = max(cost.difference, difference)
        cost.worst = min(cost.worst, float(same.double().mean()))
        cost.same, cost.pixels = cost.same + int(same.sum()), cost.pixels + same.numel()
    return cost


@contextmanager
def exported(model: nn.Module, names: list[str], calibration: Path | None) -> Iterator[list[Path]]:
    """Export the formats that this machine supports into a folder, which is removed afterwards.

    Args:
        model: Model to export.
        names: Names in EXPORTS, without the leading dash.
        calibration: Folder of images for int8, which is left out if None.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for name in names:
            path, settings = Path(folder) / f"model-{name}", EXPORTS[f"-{name}"]
            if settings.get("dtype") == "int8":
                if calibration is None:
                    continue
                settings = {**settings, "calibration": calibration}
            try:
                segnets.export(model, path, **settings)
                made.append(path)
            except ExportError as error:
                print(f"{name}: {error}", flush=True)
        yield made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--calibration", type=Path, help="folder of images for int8, if no files are given")
    names = [name.removeprefix("-") for name in EXPORTS]  # the dash would make them look like options
    parser.add_argument("--formats", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--count", type=int, default=24, help="largest number of images")
    options = parser.parse_args()
    model, images = segnets.load(options.weights).eval(), images_in(options.images, options.count)
    if options.files:
        _print_table(options.weights.name, model, options.files, images)
    else:
        with exported(model, options.formats, options.calibration) as files:
            _print_table(options.weights.name, model, files, images)


def _print_table(name: str, model: nn.Module, files: list[Path], images: list[torch.Tensor]) -> None:
    print(f"{name}, {len(images)} images\n")
    print("| format | target | precision | MB | logits differ by | masks agree | worst image | images prepared |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for path in files:
        file = load_exported(path)
        cost, contract = measure(model, file, images), file.contract
        print(
            f"| {contract.kind} | {contract.target} | {contract.dtype} | {file.size_bytes / 1e6:.1f} "
            f"| {cost.difference:.1e} | {cost.same / cost.pixels:.3%} | {cost.worst:.3%} "
            f"| {cost.prepared} of {len(images)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
