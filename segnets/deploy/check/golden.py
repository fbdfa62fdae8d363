"""Make the golden pair: a small image and the plain model's output for it. Every export carries one.

Python and C++ replay it to show that the file is intact and that this machine computes what the exporting one did.

The pair is a safetensors file of these tensors:
- `image`, (1, 48, 64, K) uint8. A preprocessing that shrinks images needs a larger one (`golden_size`).
- `input`, (1, K, 48, 64) float32: the image normalised, but not resized.
- `logits`, (1, C, 48, 64) float32: the logits of `input`.
- `sample`: every k-th row and column of the preprocessed image.
- `mask`, (1, H, W): the class of each pixel of the image; planes (1, C, H, W) of multi-label networks.
- `margin`, of the same shape, float32: the difference of the two largest logits, relative to the largest logit; or
    twice the distance of the logit from the threshold.

A file of a fixed size (N, H, W) repeats the image N times. Its `input` is the image of the same pattern at H x W, and
`input` and `logits` are stored at every k-th row and column, because they could be larger than the network otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from segnets.card import Decoding
from segnets.deploy.check.reference import logits_of
from segnets.deploy.check.tolerance import ToleranceEstimator, relative_margin
from segnets.preprocessing import Preprocess, Preprocessing
from segnets.segmenter import Segmenter, logits_at

HEIGHT, WIDTH = 48, 64
_SAMPLES_PER_SIDE = 48


@dataclass(frozen=True)
class Golden:
    """A golden pair.

    Attributes:
        tensors: Tensors of the pair by name.
        tolerance: Largest difference from the golden logits that passes, relative to the largest of them.
        sample_step: Step between the rows, and columns, of the preprocessed image that are kept.
    """

    tensors: dict[str, Tensor]
    tolerance: float
    sample_step: int


def make_golden(
    model: nn.Module,
    preprocessing: Preprocessing,
    decoding: Decoding,
    dtype: str,
    tolerance: float | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Golden:
    """Run a model on the golden image.

    Args:
        model: The plain model in eval mode, in float32.
        preprocessing: Preprocessing from an image to its input.
        decoding: Rule that turns its logits into ids.
        dtype: Precision of the exported file, for which the tolerance is estimated.
        tolerance: Tolerance to use instead of the estimate. An int8 network needs one, because the pair contains its
            own output.
        shape: Batch, height and width of the network's input if they are fixed, else None.

    Returns:
        The golden pair.

    Raises:
        ExportError: If the logits are not finite, or the model is numerically unstable.
    """
    segmenter = Segmenter(model, preprocessing, decoding).eval()
    normalised = golden_input(preprocessing, shape)
    height, width = golden_size(preprocessing)
    image = golden_image(preprocessing.channels, height, width).repeat(len(normalised), 1, 1, 1)
    logits = logits_of(segmenter.model, normalised)
    if tolerance is None:
        tolerance = ToleranceEstimator(segmenter.model, dtype).tolerance(normalised)
    with torch.inference_mode():
        prepared = segmenter.preprocess(image)
        prepared_logits = logits_of(segmenter.model, prepared)
        mask = segmenter.decode(prepared_logits, height, width)
        margin = relative_margin(logits_at(prepared_logits, height, width), decoding)
    step = -(-max(prepared.shape[2:]) // _SAMPLES_PER_SIDE)
    kept = slice(None, None, step if shape else None)
    tensors = {
        "image": image,
        "input": normalised[:, :, kept, kept],
        "logits": logits[:, :, kept, kept],
        "sample": prepared[:, :, ::step, ::step],
        "mask": mask,
        "margin": margin,
    }
    # safetensors refuses tensors that share memory, and a network may return its input.
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    return Golden(copies, tolerance, step)


def golden_size(preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the golden image's height and width: 48x64, or a multiple that a scale factor does not shrink below it."""
    factor = preprocessing.size if isinstance(preprocessing.size, float) else 1.0
    times = max(1, math.ceil(1 / factor))
    return times * HEIGHT, times * WIDTH


def golden_input(preprocessing: Preprocessing, shape: tuple[int, int, int] | None = None) -> Tensor:
    """Return the golden image normalised but not resized, (1, K, 48, 64) float32, or at a fixed (N, H, W)."""
    count, height, width = shape or (1, HEIGHT, WIDTH)
    image = golden_image(preprocessing.channels, height, width)
    result: Tensor = Preprocess(replace(preprocessing, resize="none", size=None))(image)
    return result.repeat(count, 1, 1, 1)


def golden_image(channels: int = 3, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Return the golden image, (1, height, width, channels) uint8: slopes, waves and edges.

    It is computed from integers only, so every machine gets the same pixels.
    """
    y = torch.arange(height).view(-1, 1)
    x = torch.arange(width).view(1, -1)
    red = (x * 4 + y) % 256
    green = (x * x + y * y * 3) // 8 % 256
    blue = ((x // 7 + y // 5) % 2) * 180 + (x * y) % 61
    more = [(x * (3 * band + 1) + y * (5 * band + 2)) % 256 for band in range(3, channels)]
    return torch.stack([red, green, blue, *more][:channels], dim=-1).to(torch.uint8)[None]
