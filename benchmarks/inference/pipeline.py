"""Time whole images through `Predictor.stream`, compared with the bare network and a plain loop with torchvision."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import segnets
from benchmarks.inference.inputs import SLOW
from benchmarks.turns import ratio, turns

_OURS = """
import itertools
import segnets
predictor = segnets.Predictor({weights!r})
images = {images!r}
stream = predictor.stream(itertools.cycle(images))
"""
_STREAM = """
for _ in range({count}):
    assert next(stream).mask is not None
"""
# The same network on the same inputs, as an exported file computes it: without files, preprocessing and masks.
_INPUTS = """
import torch
from segnets.images import image_pixels
network = segnets.load_exported({exported!r})
inputs = itertools.cycle([network.preprocess(torch.from_numpy(image_pixels(image))[None]) for image in images])
"""
_BARE = """
for _ in range({count}):
    network.logits(next(inputs))
"""
# What users write.
_LOOP = """
import itertools
import torch
from PIL import Image
from torch.nn import functional as F
from benchmarks.inference.inputs import network_with
from torchvision.transforms._presets import SemanticSegmentation
model = network_with({weights!r})
transform = SemanticSegmentation(resize_size=520)
images = itertools.cycle({images!r})
"""
_LOOPED = """
for _ in range({count}):
    with torch.inference_mode():
        image = Image.open(next(images)).convert("RGB")
        logits = model(transform(image)[None])["out"]
        size = (image.height, image.width)
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        mask = logits.argmax(1)[0].to(torch.uint8).numpy()
"""


def throughput(weights: dict[str, Path], images: Sequence[Path], counts: dict[str, int], rounds: int) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        weights: Weights file of each network.
        images: Image files.
        counts: Number of images for each network.
        rounds: Number of rounds. Slow networks take turns after each image, because the speed of a machine may change
            within the minutes that all of them take.
    """
    yield (
        "| network | images | loop around torchvision | bare network | `Predictor.stream` | of the bare network "
        "| of the loop |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, file in weights.items():
        chosen = [str(path) for path in images[: counts[name]]]
        exported = str(file.with_suffix(".ts"))
        segnets.export(segnets.load(file), exported, target="cpu", overwrite=True)
        ours = _OURS.format(weights=str(file), images=chosen)
        count = 1 if name == SLOW else len(chosen)
        times = turns(
            {
                "loop": (_LOOP.format(weights=str(file), images=chosen), _LOOPED.format(count=count)),
                "bare": (ours + _INPUTS.format(exported=exported), _BARE.format(count=count)),
                "stream": (ours, _STREAM.format(count=count)),
            },
            rounds * len(chosen) // count,
        )
        rates = " | ".join(f"{count / statistics.median(times[each]):.2f}/s" for each in times)
        yield (
            f"| {name} | {len(chosen)} | {rates} | {ratio(times['bare'], times['stream']):.2f} | "
            f"{ratio(times['loop'], times['stream']):.2f} |"
        )
