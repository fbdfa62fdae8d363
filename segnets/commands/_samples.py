"""Draw samples of a data set: each image next to its mask, and a legend of all classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from segnets.card import Colour
    from segnets.data import DataSet, Sample
    from segnets.data.check import DataReport

_WIDTH, _HEIGHT = 360, 270  # size of each image
_GAP, _MARGIN, _TEXT = 4, 24, 15
_COLUMNS = 2
_MOST = 8  # samples
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


def draw_samples(data: DataSet, report: DataReport) -> npt.NDArray[np.uint8]:
    """Draw samples from all splits, chosen evenly.

    Args:
        data: The data set.
        report: Report of the data set, for the shares of the classes.

    Returns:
        Picture of shape (h, w, 3), uint8, RGB. Samples that can't be read are left out.
    """
    from PIL import Image, ImageDraw, ImageFont

    from segnets.data.dataset import VOID
    from segnets.inference.legend import BLACK, Entry, draw_legend
    from segnets.palettes import default_palette

    classes = report.class_names
    palette = data.colours if data.classes else default_palette(classes)
    cells = [_cell(data, split, sample, palette) for split, sample in _chosen(data)]
    drawn = [cell for cell in cells if cell is not None]
    width = 2 * _MARGIN + _COLUMNS * (2 * _WIDTH + _GAP) + (_COLUMNS - 1) * _MARGIN
    row_height = _HEIGHT + round(2.2 * _TEXT)
    rows = -(-len(drawn) // _COLUMNS)
    counts = [
        sum(split.pixels[i] for split in report.splits.values() if i < len(split.pixels)) for i in range(len(classes))
    ]
    ignored = sum(split.ignored for split in report.splits.values())
    total = max(1, sum(split.labelled + split.ignored for split in report.splits.values()))
    entries = [Entry(i, name, palette[i], counts[i] / total) for i, name in enumerate(classes)]
    if ignored:
        entries.append(Entry(VOID, "ignored", BLACK, ignored / total))
    legend = draw_legend(entries, width - _MARGIN, _TEXT + 1)

    picture = Image.new("RGB", (width, _MARGIN + rows * row_height + len(legend)), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_TEXT)
    for number, (caption, cell) in enumerate(drawn):
        row, column = divmod(number, _COLUMNS)
        left = _MARGIN + column * (2 * _WIDTH + _GAP + _MARGIN)
        top = _MARGIN + row * row_height
        picture.paste(Image.fromarray(cell), (left, top))
        draw.text((left, top + _HEIGHT + _TEXT * 0.4), caption, _INK, font)
    picture.paste(Image.fromarray(legend), (_MARGIN // 2, _MARGIN + rows * row_height))
    return np.asarray(picture)


def _chosen(data: DataSet) -> Iterator[tuple[str, Sample]]:
    """Yield samples with masks from all splits, more from larger ones and at least one from each."""
    splits = {name: [each for each in samples if each.mask is not None] for name, samples in data.splits.items()}
    splits = {name: samples for name, samples in splits.items() if samples}
    for place, (name, samples) in enumerate(splits.items()):
        left = len(splits) - place - 1
        count = min(len(samples), _MOST - 2 * left if place == 0 else 2)
        for number in range(max(1, count)):
            yield name, samples[(2 * number + 1) * len(samples) // (2 * max(1, count))]


def _cell(
    data: DataSet, split: str, sample: Sample, palette: Sequence[Colour]
) -> tuple[str, npt.NDArray[np.uint8]] | None:
    """Return a caption, and the image next to its mask at the size of a cell."""
    from segnets.errors import SegnetsError
    from segnets.inference.drawing import draw_overlay

    try:
        pair = data.read(sample)
        factor = min(_WIDTH / pair.image.shape[1], _HEIGHT / pair.image.shape[0])
        bands = np.moveaxis(pair.image, 2, 0)
        shown = _resized(bands[[0, 1, 2] if len(bands) >= 3 else [0]], factor, smooth=True)
        image = np.ascontiguousarray(np.moveaxis(shown[[0, 1, 2] if len(shown) == 3 else [0, 0, 0]], 0, 2))
        if data.planes:
            mask = _resized((pair.mask == 1).astype(np.uint8), factor, smooth=False)
        else:
            mask = _resized(pair.mask[None], factor, smooth=False)[0]
        overlay = draw_overlay(image, mask, palette, alpha=0.6)
    except SegnetsError:
        return None
    cell = np.full((_HEIGHT, 2 * _WIDTH + _GAP, 3), 238, dtype=np.uint8)
    height, width = mask.shape[-2:]
    top, left = (_HEIGHT - height) // 2, (_WIDTH - width) // 2
    cell[top : top + height, left : left + width] = image
    cell[top : top + height, left + _WIDTH + _GAP : left + _WIDTH + _GAP + width] = overlay
    cell[:, _WIDTH : _WIDTH + _GAP] = _PAPER
    return f"{split}: {sample.name}  ({pair.image.shape[1]}x{pair.image.shape[0]})", cell


def _resized(planes: npt.NDArray[np.uint8], factor: float, *, smooth: bool) -> npt.NDArray[np.uint8]:
    """Resize the planes (N, H, W) of an image or mask."""
    from PIL import Image

    height, width = planes.shape[1:]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, method)) for plane in planes])
