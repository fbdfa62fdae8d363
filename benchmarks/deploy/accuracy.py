"""Measure the accuracy of each export on real images with real weights.

    python -m benchmarks.deploy.accuracy weights.safetensors FOLDER_OF_IMAGES model.ts model.onnx ...
    python -m benchmarks.deploy.accuracy weights.safetensors FOLDER_OF_IMAGES --calibration FOLDER

Every file's logits and masks beside those of the plain network in float32, as a table in Markdown. Without files, every
format is exported for it; int8 is calibrated on other images than those that it is measured on. "images prepared"
counts the images whose prepared input is equal in every bit.
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
    """Sums over images. difference: of logits, relative to the largest of the image."""

    difference: float = 0.0
    worst: float = 1.0
    same: int = 0
    pixels: int = 0
    prepared: int = 0


def images_in(folder: Path, count: int) -> list[torch.Tensor]:
    """At most `count` images, evenly from the sorted folder: (1, H, W, 3) uint8 each."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = paths[:: max(1, -(-len(paths) // count))]
    return [torch.from_numpy(np.array(Image.open(path).convert("RGB")))[None] for path in chosen]


def measure(model: nn.Module, file: Exported, images: list[torch.Tensor]) -> Cost:
    """One file beside the plain model, in eval mode."""
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
    """Files of the formats that can be made here, in a folder that is removed afterwards.

    names: of EXPORTS, without the dash.
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
    parser.add_argument("--calibration", type=Path, help="images for int8, where no files are given")
    names = [name.removeprefix("-") for name in EXPORTS]  # which would look like options
    parser.add_argument("--formats", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--count", type=int, default=24, help="images at most")
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
