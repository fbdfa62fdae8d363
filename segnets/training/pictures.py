"""Pictures of evaluated images: the image, its true and its predicted mask, and the wrong pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from segnets.card import Colour
from segnets.inference.drawing import draw_overlay
from segnets.inference.legend import Entry, draw_legend
from segnets.training.evaluation import Evaluation, Example
from segnets.training.metrics import VOID, planes_of

_GAP = 6
_PAPER = 255
_WRONG: Colour = (225, 30, 40)
_IGNORED: Colour = (50, 110, 220)
_CAPTION = 15  # pixels


def draw_example(evaluation: Evaluation, example: Example, *, max_side: int = 640) -> npt.NDArray[np.uint8]:
    """Draw an image, its true mask, its predicted mask and the wrong pixels in two rows, with captions and a legend.

    Args:
        evaluation: Evaluation that contains the example.
        example: Example to draw.
        max_side: Longest side of each of the four pictures, in pixels.

    Returns:
        Picture of shape (h, w, 3), uint8, RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    panels = draw_panels(evaluation, example, max_side=max_side)
    height, width = panels[0].shape[:2]
    row = height + _CAPTION + 2 * _GAP
    legend = draw_legend(_legend_entries(evaluation, example), 2 * width + 3 * _GAP, _CAPTION)
    canvas = Image.new("RGB", (2 * width + 3 * _GAP, 2 * row + len(legend)), (_PAPER,) * 3)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_CAPTION - 1)
    captions = (
        example.score.name,
        "truth",
        f"prediction, mean IoU {example.score.mean_iou:.3f}, pixel accuracy {example.score.accuracy:.3f}",
        "correct in gray, wrong in red, ignored in blue",
    )
    for number, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left, top = _GAP + number % 2 * (width + _GAP), _GAP + number // 2 * row
        canvas.paste(Image.fromarray(panel), (left, top))
        draw.text((left, top + height + _GAP // 2), caption, (60, 60, 60), font)
    canvas.paste(Image.fromarray(legend), (0, 2 * row))
    return np.asarray(canvas)


def draw_panels(evaluation: Evaluation, example: Example, *, max_side: int) -> list[npt.NDArray[np.uint8]]:
    """Draw the image, its true mask, its predicted mask and the wrong pixels, each of shape (h, w, 3), uint8, RGB."""
    image, truth, prediction = _in_colour(example.image), example.truth, example.prediction
    if prediction.ndim == 3 and truth.ndim == 2:
        truth = planes_of(torch.from_numpy(truth), len(prediction)).numpy()
    void, errors = truth == VOID, (prediction != truth) & (truth != VOID)
    if truth.ndim == 3:
        truth, void, errors = np.where(void, np.uint8(0), truth), void.all(axis=0), errors.any(axis=0)
    marks = np.where(void, 1, np.where(errors, 2, 0)).astype(np.uint8)
    pale = (image.mean(axis=2, keepdims=True) * 0.5 + 127).astype(np.uint8).repeat(3, axis=2)
    pictures = [
        image,
        draw_overlay(image, truth, evaluation.palette, alpha=0.6),
        draw_overlay(image, prediction, evaluation.palette, alpha=0.6),
        draw_overlay(pale, marks, [(0, 0, 0), _IGNORED, _WRONG], alpha=0.7, outlines=False),
    ]
    return [_reduced(picture, max_side) for picture in pictures]


def _legend_entries(evaluation: Evaluation, example: Example) -> list[Entry]:
    """Return the classes in the ground truth or the prediction, sorted by decreasing share of the ground truth."""
    _, truth, predicted = example.score.counts
    present = [number for number in np.argsort(-truth, kind="stable").tolist() if truth[number] or predicted[number]]
    return [
        Entry(number, evaluation.classes[number], evaluation.palette[number], truth[number] / max(1, truth.sum()))
        for number in present
    ]


def _in_colour(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(image[..., :3] if image.shape[2] >= 3 else image[..., [0, 0, 0]])


def _reduced(picture: npt.NDArray[np.uint8], max_side: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    height, width = picture.shape[:2]
    if max(height, width) <= max_side:
        return picture
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
