"""Views of an image whose predictions are averaged (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from segnets.errors import PredictError
from segnets.inference.maps import FlippedMaps, LogitMaps
from segnets.inference.networks import Logits
from segnets.inference.resized_logits import ResizedLogits

_SCALES = (0.1, 10.0)


@dataclass(frozen=True)
class View:
    """Transformation of an image before the network.

    Attributes:
        flip: Whether the image is mirrored, left to right.
        scale: Size relative to the network's usual input.
    """

    flip: bool = False
    scale: float = 1.0

    def of(self, batch: Tensor) -> Tensor:
        """Apply the view to a network's input, (N, K, h, w) float32, resizing with antialiasing."""
        if self.scale != 1.0:
            height, width = (max(1, round(length * self.scale)) for length in batch.shape[2:])
            batch = F.interpolate(batch, size=[height, width], mode="bilinear", align_corners=False, antialias=True)
        return batch.flip(3) if self.flip else batch

    def maps(self, logits: Logits, height: int, width: int) -> LogitMaps:
        """Undo the view: return the logits of one image at its original size and orientation."""
        maps = ResizedLogits(logits.values, height, width, through=logits.size, align_corners=logits.align_corners)
        return FlippedMaps(maps) if self.flip else maps


def views(flip: bool, scales: Sequence[float]) -> tuple[View, ...]:
    """Return every combination of scales and mirroring.

    Args:
        flip: Whether to include the mirrored image.
        scales: Sizes relative to the network's usual input, each 0.1 to 10.

    Returns:
        One view per combination.

    Raises:
        PredictError: If `scales` is empty, or a scale is outside 0.1 to 10.
    """
    low, high = _SCALES
    if (
        not isinstance(scales, Sequence)
        or not scales
        or not all(isinstance(scale, int | float) and low <= scale <= high for scale in scales)
    ):
        raise PredictError(f"scales={scales!r}: expected a list of at least one number, {low} to {high}")
    return tuple(View(mirrored, float(scale)) for scale in scales for mirrored in ((False, True) if flip else (False,)))
